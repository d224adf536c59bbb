// Measures loading: cold from a local server, again from the browser's storage, a check of every part, and memory; beside wllama and a plain fetch.
//   node benches/browser/load.mjs --model FILE.gguf [--rounds 3] [--backend cpu|webgpu] [--gpu lavapipe] [--peers wllama] [--rate MB/s]
//     [--stores indexeddb,opfs] [--pkg pkg/dist]
// Every session has a fresh browser profile; sessions are interleaved. Prints a table for benches/RESULTS.md.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { chooseStore, launch } from '../../tests/browser/harness.mjs';
import { startServer } from '../../tests/browser/server.mjs';
import { median } from './median.mjs';
import { peakMemory } from './memory.mjs';

const HERE = import.meta.dirname;
const ROOT = path.resolve(HERE, '../..');
const { values: args } = parseArgs({
  options: {
    model: { type: 'string' }, rounds: { type: 'string', default: '3' }, backend: { type: 'string', default: 'cpu' },
    gpu: { type: 'string', default: 'lavapipe' }, peers: { type: 'string', default: 'wllama' },
    // Of the line that all connections share; as fast as the machine is if not given.
    rate: { type: 'string' },
    // Where parts are kept, each in sessions of its own; what the browser finds faster if not given.
    stores: { type: 'string', default: '' },
    // The build that is measured.
    pkg: { type: 'string', default: path.join(ROOT, 'pkg/dist') },
  },
});

/** One engine in one new browser; of Lamplight perhaps with the store that is to be used. */
async function session(name) {
  const [engine, store] = name.split(' in ');
  const server = await startServer({
    mounts: { '/': HERE, '/pkg/': path.resolve(args.pkg) }, files: { '/models/model.gguf': path.resolve(args.model) },
  });
  if (args.rate) server.fault('/models/model.gguf', { lineBytesPerSecond: Number(args.rate) * 1e6 });
  const browser = await launch({ gpu: { cpu: 'none', webgpu: args.gpu }[args.backend] });
  const url = `${server.origin}/models/model.gguf`;
  const open = async () => {
    const page = await browser.context.newPage();
    await page.goto(`${server.origin}/page.html`);
    await page.waitForFunction(() => globalThis.ready === true);
    return page;
  };
  try {
    let page = await open();
    if (engine === 'fetch') {
      const cold = await page.evaluate(async (url) => {
        const started = performance.now();
        await (await fetch(url)).blob();
        return performance.now() - started;
      }, url);
      return { cold };
    }
    const load = () => page.evaluate(([name, url, options]) => bench.load(name, url, options), [engine, url, { backend: args.backend, threads: 1, nCtx: 2048 }]);
    if (store) {
      await page.evaluate(async () => { globalThis.lamplight = await import('/pkg/index.js'); });
      await chooseStore(page, store);
    }
    const { ms: cold } = await load();
    const memory = peakMemory(browser.profile);
    await page.close();
    page = await open();
    const { ms: cached, info } = await load();
    const verify = engine !== 'lamplight' ? NaN : await page.evaluate(async () => {
      const { models } = await import('/pkg/index.js');
      const [{ key }] = await models.list();
      const started = performance.now();
      await models.verify(key);
      return performance.now() - started;
    });
    return { cold, cached, verify, memory, wasm: info?.memory?.wasmBytes, gpu: info?.gpu };
  } finally {
    await browser.close();
    await server.close();
  }
}

async function main() {
  if (!args.model) throw new Error('--model FILE.gguf is missing');
  const list = (text) => text.split(',').filter(Boolean);
  const ours = args.stores ? list(args.stores).map((store) => `lamplight in ${store}`) : ['lamplight'];
  const engines = ['fetch', ...ours, ...list(args.peers)];
  const results = new Map(engines.map((engine) => [engine, []]));
  const loads = [];
  for (let round = 0; round < Number(args.rounds); round += 1) {
    for (const engine of engines) {
      loads.push(os.loadavg()[0]);
      const result = await session(engine).catch((error) => ({ error: error.message }));
      console.log(`${engine} #${round}: ${JSON.stringify(result)}`);
      results.get(engine).push(result);
    }
  }
  const value = (engine, key) => median(results.get(engine).map((result) => result[key]));
  const cell = (number, digits = 2) => (Number.isFinite(number) ? number.toFixed(digits) : '-');
  console.log(`\n${path.basename(args.model)}, ${(fs.statSync(args.model).size / 1e6).toFixed(1)} MB, ${args.backend}${args.rate ? `, a line of ${args.rate} MB/s` : ''}; medians of ${args.rounds} interleaved sessions, `
    + `load average ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}, ${os.cpus().length} logical cores.\n`);
  console.log('| engine | cold, s | cached, s | Lamplight / it, cached | verify all, s | peak of the renderer, MiB | wasm memory, MiB |\n| --- | --- | --- | --- | --- | --- | --- |');
  for (const engine of engines) {
    const ratio = ours.includes(engine) || engine === 'fetch' ? '' : cell(value(ours[0], 'cached') / value(engine, 'cached'));
    console.log(`| ${engine} | ${cell(value(engine, 'cold') / 1000)} | ${cell(value(engine, 'cached') / 1000)} | ${ratio} | ${cell(value(engine, 'verify') / 1000)} `
      + `| ${cell(value(engine, 'memory'), 0)} | ${cell(value(engine, 'wasm') / 2 ** 20, 0)} |`);
  }
  if (ours.some((engine) => results.get(engine).some((result) => result.error))) process.exitCode = 1;
}

await main();
