// The worker's own door: messages that no client of ours sends, strict security policies, and a broken set-up.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CPU, MODEL_PATH, PARIS, around, assertNoProblems, load, loadError, openPage, says, startPackageServer } from './harness.mjs';

/** The strictest policy that the package must work under; the one thing a page has to allow is compiling wasm. */
const STRICT = {
  'Content-Security-Policy': [
    "default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "worker-src 'self'", "connect-src 'self'", "img-src data:",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types default",
  ].join('; '),
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
};

describe('worker', () => {
  let server, browser;
  around({}, (started) => { ({ server, browser } = started); });

  test('a malformed message is answered with an error, and the worker goes on', async () => {
    const page = await openPage(browser, server);
    const { replies, crashed, alive } = await page.evaluate(async () => {
      const worker = new Worker('/pkg/worker.js', { type: 'module' });
      const replies = [];
      let crashed = null;
      const next = [];
      worker.onerror = (event) => { crashed = event.message; next.shift()?.(); };
      worker.onmessage = ({ data }) => {
        if (data?.failed) crashed = data.failed;
        replies.push(data?.ProcessOutput?.[1] ?? data);
        next.shift()?.();
      };
      const answer = () => new Promise((resolve) => { next.push(resolve); });
      let waiting = answer();
      worker.postMessage({ start: {} });
      await waiting;
      worker.postMessage({ Connected: 0 });
      const bad = [
        { v: 1, id: 11, type: 'no-such-request', body: {} },
        { v: 1, id: 12, type: 'tokenize', body: { text: 42 } },
        { v: 1, id: 13, type: 'load', body: { source: { kind: 'carrier-pigeon' } } },
        { v: 99, id: 14, type: 'models', body: {} },
        { v: 1, id: 'fifteen', type: 'models', body: {} },
        { v: 1, id: 16 },
        { v: 1, id: 17, type: 'chat', body: { messages: 'hello' } },
        null, 7, 'text', [], {},
      ];
      for (const request of bad) {
        waiting = answer();
        worker.postMessage({ ProcessInput: [0, request] });
        await waiting;
      }
      waiting = answer();
      worker.postMessage({ ProcessInput: [0, { v: 1, id: 99, type: 'models', body: {} }] });
      await waiting;
      worker.terminate();
      return { replies: replies.slice(1), crashed, alive: replies.at(-1) };
    });
    assert.equal(crashed, null);
    assert.equal(replies.length, 13);
    for (const reply of replies.slice(0, -1)) {
      assert.equal(reply.type, 'error', JSON.stringify(reply));
      assert.match(reply.error.code, /^(invalid-request|disposed)$/);
      assert.ok(reply.error.message.length > 10);
    }
    assert.deepEqual(replies.slice(0, 4).map((reply) => reply.id), [11, 12, 13, 14]);
    assert.equal(alive.id, 99);
    assert.equal(alive.type, 'result');
    assertNoProblems(page);
    await page.close();
  });

  test('messages outside the actor\'s own shape do not bring the worker down', async () => {
    const page = await openPage(browser, server);
    const { crashed, alive } = await page.evaluate(async () => {
      const worker = new Worker('/pkg/worker.js', { type: 'module' });
      let crashed = null;
      let alive = null;
      const loaded = new Promise((resolve) => {
        worker.onmessage = ({ data }) => {
          if (data?.failed) crashed = data.failed;
          if (data === 'WorkerLoaded' || data?.failed) resolve();
        };
      });
      worker.onerror = (event) => { crashed = event.message; };
      worker.postMessage({ start: {} });
      await loaded;
      for (const message of [null, 'x', 42, {}, { ProcessInput: null }, { ProcessInput: [0] }, { Connected: 'x' }, { Destroy: {} }, new Map()]) worker.postMessage(message);
      worker.postMessage({ Connected: 0 });
      const answered = new Promise((resolve) => {
        worker.onmessage = ({ data }) => {
          if (data?.failed) crashed = data.failed;
          if (data?.ProcessOutput?.[1]?.id === 5) alive = data.ProcessOutput[1].type;
          if (alive || crashed) resolve();
        };
        worker.addEventListener('error', resolve);
      });
      worker.postMessage({ ProcessInput: [0, { v: 1, id: 5, type: 'models', body: {} }] });
      await Promise.race([answered, new Promise((resolve) => { setTimeout(resolve, 30_000); })]);
      worker.terminate();
      return { crashed, alive };
    });
    assert.equal(crashed, null);
    assert.equal(alive, 'result');
    await page.close();
  });

  test('all of it works under a strict Content-Security-Policy with Trusted Types', async () => {
    const strict = await startPackageServer({ headers: STRICT });
    try {
      const page = await openPage(browser, strict);
      // The policy is really in force: what it forbids is refused and reported.
      await page.evaluate(() => new Promise((resolve) => {
        const image = new Image();
        image.onerror = image.onload = resolve;
        image.src = '/pixel.png';
      }));
      assert.ok(page.problems.some((problem) => /CSP: img-src/.test(problem)), JSON.stringify(page.problems));
      page.problems.length = 0;
      await load(page, CPU);
      assert.equal(await says(page), PARIS);
      assertNoProblems(page);
      await page.close();
    } finally {
      await strict.close();
    }
  });

  test('a policy without wasm-unsafe-eval gives an error that names the directive', async () => {
    const headers = { 'Content-Security-Policy': "default-src 'self'; img-src data:" };
    const strict = await startPackageServer({ headers });
    try {
      const page = await openPage(browser, strict);
      const error = await loadError(page, CPU);
      assert.equal(error.code, 'worker-failed');
      assert.match(error.message, /wasm-unsafe-eval/);
      await page.close();
    } finally {
      await strict.close();
    }
  });

  test('a missing worker.js or wasm file is named', async () => {
    const page = await openPage(browser, server);
    const worker = await loadError(page, { model: MODEL_PATH, workerUrl: '/pkg/none.js' });
    assert.equal(worker.code, 'worker-failed');
    assert.match(worker.message, /workerUrl/);
    const wasm = await loadError(page, { model: MODEL_PATH, wasmUrl: '/pkg/none.wasm' });
    assert.equal(wasm.code, 'worker-failed');
    assert.match(wasm.message, /wasmUrl/);
    await page.close();
  });
});
