// Measures two workers against one in headless Chromium, isolated and not: loads take turns (A B A B), one page each.
//   node benches/browser/workers.mjs --model FILE.gguf [--workers 1,2] [--rounds 3] [--prompt 128] [--tokens 32]
// Prints a table for benches/RESULTS.md: medians and ranges of prefill and decode in tokens a second.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { ISOLATION, launch, load, openPage, startPackageServer } from '../../tests/browser/harness.mjs';
import { median } from './median.mjs';

const PROMPTS = JSON.parse(fs.readFileSync(path.join(import.meta.dirname, 'prompts.json'), 'utf8'));
const { values: args } = parseArgs({
  options: {
    model: { type: 'string' }, workers: { type: 'string', default: '1,2' }, rounds: { type: 'string', default: '3' },
    prompt: { type: 'string', default: '128' }, tokens: { type: 'string', default: '32' },
  },
});
const show = (list) => {
  return `${median(list).toFixed(1)} (${Math.min(...list).toFixed(1)} to ${Math.max(...list).toFixed(1)})`;
};

async function measure(headers) {
  const server = await startPackageServer({ headers, files: { '/model.gguf': path.resolve(args.model) } });
  const browser = await launch();
  const found = new Map(args.workers.split(',').map((threads) => [Number(threads), { prefill: [], decode: [] }]));
  try {
    const page = await openPage(browser, server);
    for (let round = 0; round < Number(args.rounds); round++) {
      for (const [threads, { prefill, decode }] of found) {
        const { info } = await load(page, { model: '/model.gguf', backend: 'cpu', threads, contextLength: 1024 });
        if (info.threads !== threads) throw new Error(`${info.threads} workers instead of ${threads}`);
        const timings = await page.evaluate(async ([prompt, max_tokens]) => {
          await globalThis.engine.completions.create({ prompt: prompt.slice(0, 8), max_tokens: 4, temperature: 0 });
          return (await globalThis.engine.completions.create({ prompt, max_tokens, temperature: 0 })).usage.timings;
        }, [PROMPTS.ids.slice(0, Number(args.prompt)), Number(args.tokens)]);
        prefill.push(timings.prefill_tok_s);
        decode.push(timings.decode_tok_s);
      }
    }
  } finally {
    await browser.close();
    await server.close();
  }
  return found;
}

console.log(`${os.cpus()[0].model}, ${os.cpus().length} logical cores, load average ${os.loadavg()[0].toFixed(1)}; ${path.basename(args.model)}\n`);
console.log('| page | workers | prefill, tok/s | decode, tok/s |\n| --- | --- | --- | --- |');
for (const [name, headers] of [['isolated', ISOLATION], ['not isolated', {}]]) {
  for (const [threads, { prefill, decode }] of await measure(headers)) {
    console.log(`| ${name} | ${threads} | ${show(prefill)} | ${show(decode)} |`);
  }
}
