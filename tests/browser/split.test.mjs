// Models in several GGUF files through the package: by the address of one of them, by all addresses, as files that a user chose,
// and out of this browser's storage with the server switched off.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { around, assertNoProblems, load, loadError, loadFiles, logits } from './harness.mjs';

const N_SHARDS = 4;
const NAMES = Array.from({ length: N_SHARDS }, (_, index) => `model-0000${index + 1}-of-0000${N_SHARDS}.gguf`);
const SHARDS = NAMES.map((name) => `/golden/split/${name}`);
const WHOLE = '/golden/mistral_v01/model.gguf';
const OPTIONS = { backend: 'cpu', contextLength: 128 };

for (const [backend, gpu] of [['cpu', 'none'], ['webgpu', 'lavapipe']]) {
  describe(`split models on ${backend}`, () => {
    let page, expected;
    const options = { ...OPTIONS, backend };
    around({ gpu }, async (started) => {
      ({ page } = started);
      await load(page, { ...options, model: WHOLE, cache: false });
      expected = await logits(page);
      assert.ok(expected.length > 100 && expected.every(Number.isFinite));
    });

    test('the address of any file, those of all in any order, and the files themselves are the model', async () => {
      const { info, progress } = await load(page, { ...options, model: `${SHARDS[0]}?download=true`, cache: false });
      assert.equal(info.backend, backend);
      assert.deepEqual(await logits(page), expected);
      const loaded = progress.map(({ fraction }) => fraction);
      assert.deepEqual(loaded, [...loaded].sort((a, b) => a - b), 'one progress that never falls');
      assert.equal(loaded.at(-1), 1);
      const total = progress.at(-1).totalBytes;
      assert.equal(total, info.model.fileBytes);
      await load(page, { ...options, model: SHARDS[2], cache: false });
      assert.deepEqual(await logits(page), expected);
      await load(page, { ...options, model: { url: [...SHARDS].reverse(), headers: {} }, cache: false });
      assert.deepEqual(await logits(page), expected);
      const urls = [2, 0, 3, 1].map((index) => SHARDS[index]);
      assert.equal((await loadFiles(page, urls, options)).code, undefined);
      assert.deepEqual(await logits(page), expected);
      assertNoProblems(page);
    });
  });
}

describe('split models in storage', () => {
  let server, browser, page;
  around({}, (started) => { ({ server, browser, page } = started); });
  const list = () => page.evaluate(() => lamplight.models.list());

  test('the query goes with every file', async () => {
    const asked = [];
    const note = (request) => asked.push(new URL(request.url()));
    browser.context.on('request', note);
    await load(page, { ...OPTIONS, model: `${SHARDS[1]}?token=abc`, cache: false });
    browser.context.off('request', note);
    const shards = asked.filter(({ pathname }) => pathname.endsWith('.gguf'));
    assert.deepEqual([...new Set(shards.map(({ pathname }) => pathname))], SHARDS);
    assert.ok(shards.every(({ search }) => search === '?token=abc'), String(shards));
  });

  test('a load that was cut goes on, and the model is one in the list', async () => {
    server.fault(SHARDS[2], { cutAfter: 1000 });
    const error = await loadError(page, { ...OPTIONS, model: SHARDS[0] });
    assert.equal(error.code, 'network', error.message);
    assert.equal(error.field, NAMES[2]);
    server.clearFaults();
    const { info } = await load(page, { ...OPTIONS, model: SHARDS[0] });
    assert.equal(info.load.cached, true);
    const listed = await list();
    assert.equal(listed.length, 1);
    assert.ok(listed[0].key.endsWith(SHARDS[0]), listed[0].key);
    assert.equal(listed[0].complete, true);
    assert.equal(listed[0].bytesTotal, info.model.fileBytes);
    assert.equal(listed[0].bytesStored, info.model.fileBytes);
  });

  test('the next visit needs no server, whichever file is named', async () => {
    const expected = await logits(page);
    server.setOnline(false, '/golden/');
    try {
      for (const model of [SHARDS[0], SHARDS[3], [...SHARDS].reverse()]) {
        const { info } = await load(page, { ...OPTIONS, model });
        assert.equal(info.load.fromCache, true);
        assert.equal(info.load.networkBytes, 0);
        assert.deepEqual(await logits(page), expected);
      }
    } finally {
      server.setOnline(true);
    }
    assert.equal((await list()).length, 1);
    await page.evaluate(() => globalThis.engine.dispose());
    await page.evaluate(async () => lamplight.models.delete((await lamplight.models.list())[0].key));
    assert.deepEqual(await list(), []);
    assertNoProblems(page);
  });

  test('a key of the page\'s own names the whole model', async () => {
    await load(page, { ...OPTIONS, model: { url: SHARDS[1], cacheKey: 'mine' } });
    assert.deepEqual((await list()).map(({ key, complete }) => [key, complete]), [['mine', true]]);
    await page.evaluate(() => globalThis.engine.dispose());
    await page.evaluate(() => lamplight.models.delete('mine'));
    assert.deepEqual(await list(), []);
  });

  test('what is not the whole model is refused by name', async () => {
    server.fault(SHARDS[3], { status: 404 });
    const missing = await loadError(page, { ...OPTIONS, model: SHARDS[0], cache: false });
    assert.deepEqual([missing.code, missing.field], ['http-status', NAMES[3]]);
    server.clearFaults();
    const lacking = await loadFiles(page, [SHARDS[0], SHARDS[2]], OPTIONS);
    assert.deepEqual([lacking.code, lacking.field], ['missing-tensor', 'split.count']);
    assert.match(lacking.message, /shards 2 and 4 are missing/);
    const alien = await loadFiles(page, [...SHARDS.slice(1), WHOLE], OPTIONS);
    assert.deepEqual([alien.code, alien.field], ['invalid-value', 'model.gguf']);
    const twice = await loadError(page, { ...OPTIONS, model: [SHARDS[0], SHARDS[0]] });
    assert.deepEqual([twice.code, twice.field], ['invalid-request', 'model']);
    assertNoProblems(page);
  });

  test('a load that is stopped can be begun again', async () => {
    server.fault(SHARDS[1], { holdAfter: 1000 });
    const code = await page.evaluate(async (options) => {
      const controller = new AbortController();
      const loading = lamplight.createEngine({ ...options, signal: controller.signal });
      setTimeout(() => controller.abort(), 300);
      return loading.then(() => 'loaded', (error) => error.code);
    }, { ...OPTIONS, model: SHARDS[0] });
    assert.equal(code, 'aborted');
    server.clearFaults();
    const { info } = await load(page, { ...OPTIONS, model: SHARDS[0] });
    assert.equal(info.load.cached, true);
    assertNoProblems(page);
  });
});
