// Measures Lamplight and its peers in headless Chromium: one page, the same prompts, the same clock, sessions interleaved.
//   node benches/browser/run.mjs --model FILE.gguf [--onnx DIR] [--engines lamplight,wllama,transformers] [--backends cpu,webgpu]
//     [--rounds 2] [--reps 2] [--prompt 128] [--tokens 64] [--gpu lavapipe|swiftshader|native] [--threads 1] [--isolated] [--json FILE]
// Every session has a fresh browser profile: load cold, warm up, measure `reps` times, load again from the browser's cache.
// Prints a table for benches/RESULTS.md: medians, and how many times Lamplight's speed is each peer's.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { launch } from '../../tests/browser/harness.mjs';
import { startServer } from '../../tests/browser/server.mjs';

const HERE = import.meta.dirname;
const ROOT = path.resolve(HERE, '../..');
const PROMPTS = JSON.parse(fs.readFileSync(path.join(HERE, 'prompts.json'), 'utf8'));
const ISOLATION = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Cross-Origin-Resource-Policy': 'same-origin' };
/** A software GPU makes a few tokens a second: the WebGPU rows are shorter there. */
const SOFTWARE_GPU = { prompt: 128, tokens: 16 };

const { values: args } = parseArgs({
  options: {
    model: { type: 'string' }, onnx: { type: 'string' }, json: { type: 'string' },
    engines: { type: 'string', default: 'lamplight,wllama,transformers' }, backends: { type: 'string', default: 'cpu,webgpu' },
    rounds: { type: 'string', default: '2' }, reps: { type: 'string', default: '2' },
    prompt: { type: 'string', default: '128' }, tokens: { type: 'string', default: '64' },
    gpu: { type: 'string', default: 'lavapipe' }, threads: { type: 'string', default: '1' }, isolated: { type: 'boolean', default: false },
  },
});

const median = (list) => {
  const sorted = list.filter(Number.isFinite).sort((a, b) => a - b);
  return sorted.length ? (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2 : NaN;
};

/** What one engine runs on one backend: its model file or folder, and how long the test is. */
function jobOf(engine, backend) {
  const software = backend === 'webgpu' && args.gpu !== 'native';
  const prompt = Math.min(Number(args.prompt), software ? SOFTWARE_GPU.prompt : Infinity);
  const tokens = Math.min(Number(args.tokens), software ? SOFTWARE_GPU.tokens : Infinity);
  // onnxruntime's best formats differ: int8 for its CPU kernels, 4 bits (as the GGUF has) for the GPU.
  const url = engine === 'transformers' ? '/onnx' : '/models/model.gguf';
  // wllama's WebGPU build aborts in a page that is not cross-origin isolated.
  const isolated = args.isolated || (engine === 'wllama' && backend === 'webgpu');
  return { engine, backend, prompt, tokens, url, isolated, options: { backend, threads: Number(args.threads), dtype: backend === 'webgpu' ? 'q4' : 'q8' } };
}

async function openPage(context, origin) {
  const page = await context.newPage();
  await page.goto(`${origin}/page.html`);
  await page.waitForFunction(() => globalThis.ready === true);
  return page;
}

/** One engine in one new browser. */
async function session(job) {
  const server = await startServer({
    mounts: { '/': HERE, '/pkg/': path.join(ROOT, 'pkg/dist'), ...(args.onnx ? { '/onnx/': path.resolve(args.onnx) } : {}) },
    files: { '/models/model.gguf': path.resolve(args.model) },
    headers: job.isolated ? ISOLATION : {},
  });
  const gpu = { cpu: 'none', webgpu: args.gpu }[job.backend];
  const browser = await launch({ gpu });
  try {
    const version = browser.context.browser()?.version();
    const load = async (page) => page.evaluate(([name, url, options]) => bench.load(name, url, options), [job.engine, server.origin + job.url, job.options]);
    const generate = (page, length, n) => page.evaluate((request) => bench.generate(request), { ids: PROMPTS.ids.slice(0, length), text: PROMPTS.texts[length], n });
    let page = await openPage(browser.context, server.origin);
    const cold = await load(page);
    await generate(page, 8, 4);
    const samples = { ttft: [], prefill: [], decode: [] };
    for (let rep = 0; rep < Number(args.reps); rep += 1) {
      const long = await generate(page, job.prompt, 1);
      const first = long.times[0] ?? long.end;
      samples.ttft.push(first);
      samples.prefill.push(job.prompt / (first / 1000));
      const { times, count } = await generate(page, 8, job.tokens);
      samples.decode.push((count - 1) / ((times.at(-1) - times[0]) / 1000));
    }
    await page.close();
    page = await openPage(browser.context, server.origin);
    const cached = await load(page);
    return { version, info: cold.info, cold: cold.ms, cached: cached.ms, ...samples };
  } finally {
    await browser.close();
    await server.close();
  }
}

function versions() {
  const of = (name) => {
    try { return JSON.parse(fs.readFileSync(path.join(HERE, 'node_modules', name, 'package.json'), 'utf8')).version; } catch { return '?'; }
  };
  let commit = '?';
  try { commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: ROOT, encoding: 'utf8' }).trim(); } catch { /* not a git checkout */ }
  return `Lamplight ${commit}, wllama ${of('@wllama/wllama')}, Transformers.js ${of('@huggingface/transformers')} (onnxruntime-web ${of('onnxruntime-web')})`;
}

/** Rows of the table; `ours` are Lamplight's medians on that backend. */
function table(jobs, results) {
  const digits = (value, n) => (Number.isFinite(value) ? value.toFixed(n) : '-');
  const ofJob = (job) => results.filter((r) => r.job === job && !r.error);
  const pick = (job, key) => median(ofJob(job).flatMap((r) => r[key]));
  const lines = [
    '| engine | backend | load cold / cached, s | first token, ms | prefill, tok/s | decode, tok/s | Lamplight: prefill, decode |',
    '| --- | --- | --- | --- | --- | --- | --- |',
  ];
  for (const job of jobs) {
    const ours = jobs.find((other) => other.engine === 'lamplight' && other.backend === job.backend);
    const info = ofJob(job)[0]?.info;
    const failed = results.find((r) => r.job === job && r.error)?.error;
    const where = info?.backend && info.backend !== job.backend ? `${job.backend} asked, ran on ${info.backend}` : job.backend;
    if (!info) {
      lines.push(`| ${job.engine} | ${job.backend} | failed: ${(failed ?? 'no result').split('\n')[0].slice(0, 120)} | | | | |`);
      continue;
    }
    const ratio = (key) => (ours && ours !== job ? `${digits(pick(ours, key) / pick(job, key), 2)}x` : '');
    lines.push(`| ${job.engine}${info.dtype ? ` ${info.dtype}` : ''} | ${where} (prompt ${job.prompt}, ${job.tokens} tokens${job.isolated && !args.isolated ? ', isolated' : ''}) `
      + `| ${digits(pick(job, 'cold') / 1000, 1)} / ${digits(pick(job, 'cached') / 1000, 1)} | ${digits(pick(job, 'ttft'), 0)} `
      + `| ${digits(pick(job, 'prefill'), 1)} | ${digits(pick(job, 'decode'), 1)} | ${[ratio('prefill'), ratio('decode')].filter(Boolean).join(', ')} |`);
  }
  return lines.join('\n');
}

async function main() {
  if (!args.model) throw new Error('--model FILE.gguf is missing');
  let engines = args.engines.split(',');
  if (engines.includes('transformers') && !args.onnx) {
    console.log('Transformers.js is left out: it needs the weights as ONNX (see benches/browser/README.md)');
    engines = engines.filter((engine) => engine !== 'transformers');
  }
  const jobs = args.backends.split(',').flatMap((backend) => engines.map((engine) => jobOf(engine, backend)));
  const results = [];
  for (const backend of args.backends.split(',')) {
    for (let round = 0; round < Number(args.rounds); round += 1) {
      for (const job of jobs.filter((candidate) => candidate.backend === backend)) {
        const load = os.loadavg()[0];
        const result = await session(job).catch((error) => ({ error: error.message }));
        results.push({ job, round, load, ...result });
        const { prefill, decode, ttft, cold, error } = result;
        console.log(error
          ? `${job.engine} ${backend} #${round}: failed: ${error}`
          : `${job.engine} ${backend} #${round}: load ${(cold / 1000).toFixed(1)} s, first token ${median(ttft).toFixed(0)} ms, prefill ${prefill.map((v) => v.toFixed(1)).join(' ')}, decode ${decode.map((v) => v.toFixed(1)).join(' ')} tok/s (machine load before: ${load.toFixed(1)})`);
      }
    }
  }
  const loads = results.map((result) => result.load);
  const chromium = results.find((result) => result.version)?.version ?? '?';
  const gpu = args.backends.includes('webgpu') ? `, WebGPU adapter: ${args.gpu}` : '';
  console.log(`\n### ${new Date().toISOString().slice(0, 10)}, ${path.basename(args.model)}\n`);
  console.log(`${os.cpus()[0].model}, ${os.cpus().length} logical cores, ${Math.round(os.totalmem() / 2 ** 30)} GiB; Chromium ${chromium}${gpu}; `
    + `${args.isolated ? 'cross-origin isolated' : 'not cross-origin isolated'}, ${args.threads} thread(s) asked.`);
  console.log(`${versions()}.`);
  console.log(`Medians of ${args.rounds} interleaved sessions of ${args.reps} repeats; load average before a session ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}. Last column: Lamplight's speed over the peer's.\n`);
  console.log(table(jobs, results));
  if (args.json) fs.writeFileSync(args.json, JSON.stringify(results, null, 1));
  if (results.some((result) => result.error && result.job.engine === 'lamplight')) process.exitCode = 1;
}

await main();
