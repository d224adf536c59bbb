// Whether a model fits is known from its header: exactly what it then takes, and no weight is fetched for it.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MODEL_BYTES, MODEL_PATH, around, assertNoProblems, load } from './harness.mjs';

/** Of a context of 1,024 the first page, which is half, is made at once, and the other when a text gets there. */
function assertForetold(info, fit) {
  const foretold = fit.totalBytes - fit.kvBytes / 2;
  const difference = Math.abs(info.memory.backendBytes / foretold - 1);
  assert.ok(difference < 0.02, `${info.memory.backendBytes} bytes were taken, ${foretold} foretold`);
}

for (const [gpu, backend] of [['none', 'cpu'], ['lavapipe', 'webgpu']]) {
  describe(`fit on ${backend}`, () => {
    let server, page;
    around({ gpu }, (started) => { ({ server, page } = started); });
    const ask = (options) => page.evaluate((options) => lamplight.fit(options), { model: MODEL_PATH, backend, ...options });

    test('the numbers are those of the load that follows', async () => {
      const small = await ask({ contextLength: 256 });
      const fit = await ask({ contextLength: 1024 });
      assert.equal(fit.verdict, 'fits', JSON.stringify(fit));
      assert.equal(fit.backend, backend);
      assert.equal(fit.contextLength, 1024);
      assert.equal(fit.downloadBytes, MODEL_BYTES);
      assert.equal(fit.kvBytes, 4 * small.kvBytes);
      assert.equal(fit.weightBytes, small.weightBytes);
      assert.equal(fit.totalBytes, fit.weightBytes + fit.kvBytes + fit.workspaceBytes);
      const sent = server.requests(MODEL_PATH).reduce((sum, entry) => sum + entry.sent, 0);
      assert.ok(sent < MODEL_BYTES / 2, `${sent} bytes were sent for a question`);
      assert.deepEqual(await page.evaluate(() => lamplight.models.list()), [], 'a question stores nothing');
      const { info } = await load(page, { model: MODEL_PATH, backend, contextLength: 1024 });
      assertForetold(info, fit);
      assert.equal((await ask({ contextLength: 1024 })).downloadBytes, 0);
      assertNoProblems(page);
    });

    if (backend === 'cpu') {
      test('of several workers it is what they take together', async () => {
        const fit = await ask({ contextLength: 1024, threads: 2 });
        const { info } = await load(page, { model: MODEL_PATH, backend, contextLength: 1024, threads: 2 });
        assert.equal(info.threads, 2);
        assertForetold(info, fit);
      });

      test('a context that no memory holds is answered, and not tried', async () => {
        const fit = await ask({ contextLength: 1 << 20 });
        assert.equal(fit.verdict, 'no', JSON.stringify(fit));
        assert.ok(fit.kvBytes > 2 ** 34, String(fit.kvBytes));
      });
    }
  });
}
