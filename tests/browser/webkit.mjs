// The CPU path in WebKitGTK, the third engine: no WebGPU, no relaxed SIMD, no SharedArrayBuffer. Driven by plain WebDriver
// under Xvfb, since no driver package knows this browser. `node --test tests/browser/webkit.mjs`
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { MODEL_BYTES, MODEL_PATH, ROOT, startPackageServer } from './harness.mjs';
import { freePort, openSession, processes } from './webdriver.mjs';

const GOLDEN = JSON.parse(fs.readFileSync(path.join(ROOT, 'tests/golden/real/smollm2-135m-instruct-q4_1.json'), 'utf8'));
/** A path with 8-bit activations must give the reference's ids up to the first step decided by less than this. */
const CERTAIN = 0.3;

/** Starts Xvfb, the driver and a browser. */
async function startWebkit() {
  const children = processes();
  // -displayfd lets Xvfb choose a free display; it writes the number to that descriptor.
  const xvfb = children.add(spawn('Xvfb', ['-displayfd', '3', '-screen', '0', '800x600x24', '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] }));
  const display = await new Promise((resolve, reject) => {
    xvfb.stdio[3].once('data', (data) => resolve(`:${String(data).trim()}`));
    xvfb.once('exit', () => reject(new Error('Xvfb ended at once')));
    xvfb.once('error', reject);
  });
  const port = await freePort();
  children.start('WebKitWebDriver', [`--port=${port}`, '--host=127.0.0.1'], { DISPLAY: display, GDK_BACKEND: 'x11', WEBKIT_DISABLE_COMPOSITING_MODE: '1' });
  const binary = process.env.MINIBROWSER_BIN || '/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser';
  const session = await openSession(port, { 'webkitgtk:browserOptions': { binary, args: ['--automation'] } });
  return { ...session, close: () => session.end().then(children.endAll) };
}

describe('WebKitGTK, CPU path', () => {
  let server, webkit;
  let opened = 0;
  // The driver may answer before the old page is gone, whose end then cuts off the script: each page has an address of its own.
  const openPage = async () => {
    const search = `?page=${opened += 1}`;
    await webkit.open(`${server.origin}/${search}`);
    const isReady = () => webkit.run(() => globalThis.ready && location.search).catch(() => '');
    for (let attempt = 0; await isReady() !== search; attempt += 1) {
      assert.ok(attempt < 1000, 'the page does not get ready');
      await new Promise((resolve) => { setTimeout(resolve, 20); });
    }
  };
  before(async () => {
    server = await startPackageServer();
    webkit = await startWebkit();
    await openPage();
  });
  after(async () => {
    await webkit?.close();
    await server?.close();
  });

  test('capabilities: SIMD and no WebGPU, with a reason', async (t) => {
    t.diagnostic(`WebKitGTK ${webkit.version}`);
    const found = await webkit.run(() => lamplight.capabilities());
    assert.equal(found.webgpu, false);
    assert.ok(found.webgpuReason.length > 10);
    assert.equal(found.simd, true);
  });

  test('the real model loads from the network onto the CPU', async (t) => {
    const { info, seconds, warnings } = await webkit.run(async (model) => {
      const started = performance.now();
      globalThis.warnings = [];
      globalThis.engine = await lamplight.createEngine({ model, onWarning: (warning) => warnings.push(warning) });
      return { warnings, info: engine.info, seconds: (performance.now() - started) / 1000 };
    }, MODEL_PATH);
    t.diagnostic(`cold load: ${seconds.toFixed(2)} s`);
    assert.deepEqual(warnings, []);
    assert.equal(info.backend, 'cpu');
    assert.ok(info.backendReason.length > 10);
    assert.equal(info.model.fileBytes, MODEL_BYTES);
  });

  for (const golden of GOLDEN.cases.filter((_, index) => index === 0 || index === 4)) {
    test(`greedy ids are the reference's: ${golden.kind} ${JSON.stringify(golden.prompt.slice(0, 40))}`, async (t) => {
      const { ids, margin } = golden.exact_f32;
      const count = margin.findIndex((value) => value < CERTAIN);
      const expected = ids.slice(0, count);
      const { text, wanted, timings } = await webkit.run(async ({ prompt, wantedIds }) => {
        const done = await engine.completions.create({ prompt, temperature: 0, max_tokens: wantedIds.length });
        return { text: done.choices[0].text, wanted: await engine.detokenize(wantedIds), timings: done.usage.timings };
      }, { prompt: golden.prompt_ids, wantedIds: expected });
      t.diagnostic(`${count} ids; prefill ${timings.prefill_tok_s.toFixed(1)} tok/s, decode ${timings.decode_tok_s.toFixed(1)} tok/s`);
      assert.ok(count >= 5);
      assert.equal(text, wanted);
    });
  }

  test('a second load comes from IndexedDB with no request for weights', async (t) => {
    server.clearLog();
    await openPage();
    const { info, seconds, text } = await webkit.run(async (model) => {
      const started = performance.now();
      globalThis.engine = await lamplight.createEngine({ model });
      const loaded = (performance.now() - started) / 1000;
      const done = await engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 2 });
      return { info: engine.info, seconds: loaded, text: done.choices[0].text };
    }, MODEL_PATH);
    t.diagnostic(`load from the cache: ${seconds.toFixed(2)} s`);
    assert.equal(info.load.fromCache, true);
    assert.deepEqual(server.requests(MODEL_PATH), []);
    assert.equal(text, ' Paris.');
  });
});
