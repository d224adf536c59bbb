// Measures Lamplight and its peers in headless Chromium: one page, the same prompts, the same clock, sessions interleaved.
//   node benches/browser/run.mjs --model FILE.gguf [--onnx DIR] [--engines lamplight,wllama,transformers] [--backends cpu,webgpu]
//     [--rounds 2] [--reps 2] [--prompt 128,512] [--depth 0,1024] [--tokens 64] [--gpu lavapipe|swiftshader|native] [--threads 1] [--isolated] [--json FILE]
// Every session has a fresh browser profile: load cold, warm up, measure `reps` times, load again from the browser's cache.
// Each length of `--prompt` is a row; `--depth` is about how many tokens stand before the decoded ones (0: eight of them).
// Prints a table for benches/RESULTS.md: medians, spread, and how many times Lamplight's speed is each peer's.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { launch } from '../../tests/browser/harness.mjs';
import { startServer } from '../../tests/browser/server.mjs';
import { median } from './median.mjs';

const HERE = import.meta.dirname;
const ROOT = path.resolve(HERE, '../..');
const PROMPTS = JSON.parse(fs.readFileSync(path.join(HERE, 'prompts.json'), 'utf8'));
const ISOLATION = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Cross-Origin-Resource-Policy': 'same-origin' };
/** Tokens decoded unless asked: a software GPU makes a few a second. */
const TOKENS = { hardware: 64, software: 16 };

const { values: args } = parseArgs({
  options: {
    model: { type: 'string' }, onnx: { type: 'string' }, json: { type: 'string' },
    engines: { type: 'string', default: 'lamplight,wllama,transformers' }, backends: { type: 'string', default: 'cpu,webgpu' },
    rounds: { type: 'string', default: '2' }, reps: { type: 'string', default: '2' },
    prompt: { type: 'string', default: '128' }, depth: { type: 'string', default: '0' }, tokens: { type: 'string' },
    gpu: { type: 'string', default: 'lavapipe' }, threads: { type: 'string', default: '1' }, isolated: { type: 'boolean', default: false },
  },
});


/** `length` tokens, and the text of them: the 512 there are, as often as it takes (where they meet, a token may differ). */
function promptOf(length) {
  const times = Math.ceil(length / PROMPTS.ids.length);
  if (times <= 1) return { ids: PROMPTS.ids.slice(0, length), text: PROMPTS.texts[length] };
  const all = Array.from({ length: times }, () => PROMPTS);
  return { ids: all.flatMap(({ ids }) => ids).slice(0, length), text: all.map(({ texts }) => texts[PROMPTS.ids.length]).join('') };
}

/** What one engine runs on one backend: its model file or folder, and how long the tests are. */
function jobOf(engine, backend) {
  const software = backend === 'webgpu' && args.gpu !== 'native';
  const lengths = (list) => list.split(',').map(Number);
  const prompts = lengths(args.prompt);
  const depths = lengths(args.depth);
  const tokens = Number(args.tokens ?? (software ? TOKENS.software : TOKENS.hardware));
  // onnxruntime's best formats differ: int8 for its CPU kernels, 4 bits (as the GGUF has) for the GPU.
  const url = engine === 'transformers' ? '/onnx' : '/models/model.gguf';
  // wllama's WebGPU build aborts in a page that is not cross-origin isolated.
  const isolated = args.isolated || (engine === 'wllama' && backend === 'webgpu');
  // Room for the longest text, and for what its template adds.
  const nCtx = Math.max(2048, Math.max(...prompts, ...depths) + tokens + 128);
  return { engine, backend, prompts, depths, tokens, url, isolated, options: { backend, nCtx, threads: Number(args.threads), dtype: backend === 'webgpu' ? 'q4' : 'q8' } };
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
    const generate = (page, length, n) => page.evaluate((request) => bench.generate(request), { ...promptOf(length), n });
    let page = await openPage(browser.context, server.origin);
    const cold = await load(page);
    await generate(page, 8, 4);
    const each = (list) => Object.fromEntries(list.map((length) => [length, []]));
    const samples = { ttft: [], prefill: each(job.prompts), decode: each(job.depths) };
    for (let rep = 0; rep < Number(args.reps); rep += 1) {
      for (const prompt of job.prompts) {
        const long = await generate(page, prompt, 1);
        const first = long.times[0] ?? long.end;
        if (prompt === job.prompts[0]) samples.ttft.push(first);
        samples.prefill[prompt].push(prompt / (first / 1000));
      }
      for (const depth of job.depths) {
        const { times, count } = await generate(page, Math.max(depth, 8), job.tokens);
        samples.decode[depth].push((count - 1) / ((times.at(-1) - times[0]) / 1000));
      }
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

/** Rows of the table: medians with the spread of all repeats, and Lamplight's median over the peer's. */
function table(jobs, results) {
  const digits = (value, n) => (Number.isFinite(value) ? value.toFixed(n) : '-');
  const ofJob = (job) => results.filter((r) => r.job === job && !r.error);
  const pick = (job, of) => ofJob(job).flatMap(of);
  const lines = [];
  const titles = ({ prompts, depths }) => [...prompts.map((n) => `prefill ${n}`), ...depths.map((n) => `decode at ${n}`)];
  for (const job of jobs) {
    const measures = [...job.prompts.map((n) => (r) => r.prefill[n]), ...job.depths.map((n) => (r) => r.decode[n])];
    if (job === jobs.find((other) => other.backend === job.backend)) {
      if (lines.length) lines.push('');
      const columns = ['engine', 'backend', 'load cold / cached, s', 'first token, ms', ...titles(job).map((title) => `${title}, tok/s`)];
      lines.push(`| ${columns.join(' | ')} |`, `| ${columns.map(() => '---').join(' | ')} |`);
    }
    const ours = jobs.find((other) => other.engine === 'lamplight' && other.backend === job.backend);
    const info = ofJob(job)[0]?.info;
    const failed = results.find((r) => r.job === job && r.error)?.error;
    const where = info?.backend && info.backend !== job.backend ? `${job.backend} asked, ran on ${info.backend}` : job.backend;
    if (!info) {
      lines.push(`| ${job.engine} | ${job.backend} | failed: ${(failed ?? 'no result').split('\n')[0].slice(0, 120)} | |${measures.map(() => ' |').join('')}`);
      continue;
    }
    const cell = (of) => {
      const values = pick(job, of);
      const spread = values.length > 1 ? ` (${digits(Math.min(...values), 1)} to ${digits(Math.max(...values), 1)})` : '';
      const ratio = ours && ours !== job ? `, ${digits(median(pick(ours, of)) / median(values), 2)}x` : '';
      return `${digits(median(values), 1)}${spread}${ratio}`;
    };
    lines.push(`| ${job.engine}${info.dtype ? ` ${info.dtype}` : ''} | ${where}${job.isolated && !args.isolated ? ' (isolated)' : ''} `
      + `| ${digits(median(pick(job, (r) => r.cold)) / 1000, 1)} / ${digits(median(pick(job, (r) => r.cached)) / 1000, 1)} `
      + `| ${digits(median(pick(job, (r) => r.ttft)), 0)} | ${measures.map(cell).join(' | ')} |`);
  }
  return lines.join('\n');
}

/** `128: 170.1 172.3; 512: 150.2` */
const rates = (lists) => Object.entries(lists).map(([length, list]) => `${length}: ${list.map((v) => v.toFixed(1)).join(' ')}`).join('; ');

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
          : `${job.engine} ${backend} #${round}: load ${(cold / 1000).toFixed(1)} s, first token ${median(ttft).toFixed(0)} ms, prefill ${rates(prefill)}, decode ${rates(decode)} tok/s (machine load before: ${load.toFixed(1)})`);
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
  console.log(`Medians of ${args.rounds} interleaved sessions of ${args.reps} repeats; load average before a session ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}. ${[...new Set(jobs.map(({ tokens }) => tokens))].join(' and ')} tokens decoded. In brackets the spread; then how many times the peer's speed Lamplight's is.\n`);
  console.log(table(jobs, results));
  if (args.json) fs.writeFileSync(args.json, JSON.stringify(results, null, 1));
  if (results.some((result) => result.error && result.job.engine === 'lamplight')) process.exitCode = 1;
}

await main();
