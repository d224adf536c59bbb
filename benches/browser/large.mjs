// Loads a model above 4 GiB over several workers in headless Chromium, of random weights where none is named, and decodes a few
// tokens. It takes as much disk and memory as the model and half as much again, so it runs only when it is asked for.
//   LAMPLIGHT_LONG=1 node benches/browser/large.mjs [--model FILE.gguf | --source SMALL.gguf] [--threads 2] [--tokens 4] [--isolated]
// Prints seconds, tokens a second and memory for benches/RESULTS.md.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { ISOLATION, MODEL_FILE, launch, load, openPage, startPackageServer } from '../../tests/browser/harness.mjs';
import { peakMemory } from './memory.mjs';

const { values: args } = parseArgs({
  options: {
    model: { type: 'string' }, source: { type: 'string', default: MODEL_FILE }, threads: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '4' }, isolated: { type: 'boolean', default: false },
  },
});
if (!process.env.LAMPLIGHT_LONG) {
  console.log('a model above 4 GiB needs LAMPLIGHT_LONG=1');
  process.exit(0);
}

const made = args.model ? undefined : fs.mkdtempSync(path.join(os.tmpdir(), 'lamplight-large-'));
const model = path.resolve(args.model ?? path.join(made, 'model.gguf'));
try {
  // Nine layers of 0.86 billion weights.
  if (made) execFileSync('python3', [path.join(import.meta.dirname, 'synthetic.py'), args.source, model, '9', '8192', '28672', '64', '8']);
  const bytes = fs.statSync(model).size;
  const server = await startPackageServer({ headers: args.isolated ? ISOLATION : {}, files: { '/model.gguf': model } });
  const browser = await launch();
  try {
    const page = await openPage(browser, server);
    const { info, seconds } = await load(page, {
      model: '/model.gguf', backend: 'cpu', threads: Number(args.threads), contextLength: 256, cache: false,
    });
    const { text, timings } = await page.evaluate(async (max_tokens) => {
      const { choices, usage } = await globalThis.engine.completions.create({ prompt: 'The sea was calm', max_tokens, temperature: 0 });
      return { text: choices[0].text, timings: usage.timings };
    }, Number(args.tokens));
    if (text.length === 0) throw new Error('no text');
    const mib = (value) => Math.round(value / 2 ** 20);
    console.log(`| ${mib(bytes)} | ${info.threads}, ${info.exchange} | ${seconds.toFixed(0)} | ${timings.prefill_tok_s.toFixed(2)} | ${timings.decode_tok_s.toFixed(2)} `
      + `| ${mib(info.memory.backendBytes)} | ${mib(info.memory.wasmBytes)} (${(info.memory.wasmBytes / bytes).toFixed(2)}x) | ${Math.round(peakMemory(browser.profile))} |`);
  } finally {
    await browser.close();
    await server.close();
  }
} finally {
  if (made) fs.rmSync(made, { recursive: true, force: true });
}
