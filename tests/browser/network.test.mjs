// What comes over the network: cut and resumed downloads, servers without ranges, local files, and files that are no model.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  CPU, MODEL_BYTES, MODEL_FILE, MODEL_PATH, NOTHING_HELD, PARIS, PART_BYTES, around, assertBaseline, assertLedger, assertNoProblems, baseline, forget, load,
  loadError, openPage, recovers, says,
} from './harness.mjs';

const u32 = (...values) => Buffer.from(Uint32Array.from(values).buffer);
const u64 = (...values) => Buffer.from(BigUint64Array.from(values.map(BigInt)).buffer);
const GGUF = Buffer.from('GGUF');

/** Files that are no (whole) model: URL path, content, and the codes that may answer. */
const BAD_FILES = [
  ['/bad/page.gguf', Buffer.from('<!doctype html><title>Sign in</title>'), ['not-a-model']],
  ['/bad/pointer.gguf', Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 98362432\n'), ['not-a-model']],
  ['/bad/empty.gguf', Buffer.alloc(0), ['truncated', 'not-a-model']],
  ['/bad/short.gguf', Buffer.concat([GGUF, u32(3)]), ['truncated']],
  ['/bad/version.gguf', Buffer.concat([GGUF, u32(99), u64(0, 0)]), ['unsupported-version']],
  ['/bad/endian.gguf', Buffer.concat([GGUF, Buffer.from([0, 0, 0, 3]), u64(0, 0)]), ['unsupported-version']],
  ['/bad/counts.gguf', Buffer.concat([GGUF, u32(3), u64(2n ** 60n, 2n ** 60n)]), ['limit-exceeded', 'malformed']],
  ['/bad/nothing.gguf', Buffer.concat([GGUF, u32(3), u64(0, 0), Buffer.alloc(8)]), ['missing-key', 'unsupported-architecture']],
];

describe('network', () => {
  let server, browser, page, base;
  around({ files: Object.fromEntries(BAD_FILES) }, async (started) => {
    ({ server, browser, page } = started);
    base = await baseline(page, CPU);
  });
  const sentBytes = () => server.requests(MODEL_PATH).reduce((sum, entry) => sum + entry.sent, 0);

  test('a download that was cut resumes at the last whole part', async (t) => {
    await forget(page);
    // Past 40 MB of the file every answer is cut, so that trying again does not help.
    const limit = 40e6;
    server.fault(MODEL_PATH, { cutAfter: 1e6, when: (entry) => Number(/=(\d+)-(\d*)/.exec(entry.range)?.[2] || MODEL_BYTES) > limit });
    const error = await loadError(page, CPU);
    assert.equal(error.name, 'LamplightError');
    assert.equal(error.code, 'network', error.message);
    const kept = await page.evaluate(() => lamplight.models.list());
    assert.equal(kept.length, 1);
    assert.equal(kept[0].complete, false);
    assert.ok(kept[0].bytesStored >= 2 * PART_BYTES, `${kept[0].bytesStored} bytes kept`);

    server.clearFaults();
    server.clearLog();
    await recovers(page, CPU, base);
    t.diagnostic(`kept ${(kept[0].bytesStored / 1e6).toFixed(1)} MB, fetched ${(sentBytes() / 1e6).toFixed(1)} MB more`);
    assert.ok(sentBytes() <= MODEL_BYTES - kept[0].bytesStored, `${sentBytes()} bytes were sent again`);
    const starts = server.requests(MODEL_PATH).map((entry) => Number(/=(\d+)-/.exec(entry.range)[1]));
    assert.ok(Math.min(...starts) >= kept[0].bytesStored - PART_BYTES, `asked again from ${Math.min(...starts)}`);
  });

  test('one cut is bridged without an error', async () => {
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { cutAfter: 3e6, times: 1, when: (entry) => !/=0-/.test(entry.range) });
    await recovers(page, CPU, base);
    assert.ok(server.requests(MODEL_PATH).some((entry) => entry.sent === 3e6), 'no answer was cut');
  });

  test('an abort while loading stops the download; the next load goes on from what was kept', async (t) => {
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { bytesPerSecond: 10e6 });
    const result = await page.evaluate(async (model) => {
      const controller = new AbortController();
      let asked = 0;
      try {
        await lamplight.createEngine({
          model, backend: 'cpu', signal: controller.signal,
          onProgress: (value) => { if (!asked && value.loadedBytes > 60e6) { asked = performance.now(); controller.abort(); } },
        });
        return { code: 'no error' };
      } catch (error) {
        return { code: error.code, ms: performance.now() - asked };
      }
    }, MODEL_PATH);
    t.diagnostic(`the load stopped ${result.ms?.toFixed(0)} ms after the abort`);
    assert.equal(result.code, 'aborted');
    server.clearFaults();
    const sentBefore = sentBytes();
    assert.ok(sentBefore < MODEL_BYTES, `${sentBefore} bytes were sent`);
    server.clearLog();
    await recovers(page, CPU, base);
    assert.ok(sentBytes() <= MODEL_BYTES - PART_BYTES, `${sentBytes()} bytes were sent again`);
  });

  test('a model comes in the background: paused, gone on with by two tabs at once, and loaded from what was stored', async () => {
    await forget(page);
    await load(page, { ...CPU, model: '/golden/llama32/model.gguf', cache: false });
    server.clearLog();
    server.fault(MODEL_PATH, { bytesPerSecond: 10e6 });
    const paused = await page.evaluate(async (model) => {
      const pause = new AbortController();
      const download = lamplight.models.download(model, {
        signal: pause.signal, onProgress: ({ loadedBytes }) => { if (loadedBytes > 40e6) pause.abort(); },
      });
      // The engine that is loaded goes on meanwhile.
      const { usage } = await engine.completions.create({ prompt: [1, 2, 3], temperature: 0, max_tokens: 4 });
      return [usage.completion_tokens > 0, await download.catch(({ code }) => code)];
    }, MODEL_PATH);
    assert.deepEqual(paused, [true, 'aborted']);
    // The worker stores what it has after the page has heard of its abort.
    await page.waitForFunction(async (bytes) => (await lamplight.models.list())[0]?.bytesStored >= bytes, 2 * PART_BYTES);
    const [{ complete, bytesStored }] = await page.evaluate(() => lamplight.models.list());
    assert.equal(complete, false);
    server.clearFaults();
    server.clearLog();
    const download = (tab) => tab.evaluate((model) => lamplight.models.download(model), MODEL_PATH);
    const other = await openPage(browser, server);
    for (const found of await Promise.all([download(page), download(other)])) {
      assert.deepEqual([found.key, found.complete, found.bytesStored], [server.origin + MODEL_PATH, true, MODEL_BYTES]);
    }
    await other.close();
    assert.ok(sentBytes() <= MODEL_BYTES - bytesStored, `${sentBytes()} bytes were sent, ${bytesStored} were stored`);
    server.clearLog();
    await download(page);
    const { info } = await load(page, CPU);
    assert.deepEqual([info.load.fromCache, info.load.key], [true, server.origin + MODEL_PATH]);
    assert.deepEqual(server.requests(MODEL_PATH), []);
    assert.equal(await says(page), PARIS);
  });

  test('a download of what is no model is refused', async () => {
    await forget(page);
    const code = await page.evaluate(() => lamplight.models.download('/bad/page.gguf').then(() => 'no error', ({ code }) => code));
    assert.equal(code, 'not-a-model');
    assert.deepEqual(await page.evaluate(() => lamplight.models.list()), []);
  });

  test('a local file works and is not copied into the cache', async () => {
    await forget(page);
    server.clearLog();
    await page.evaluate(() => {
      const input = document.createElement('input');
      input.type = 'file';
      document.body.append(input);
    });
    await page.setInputFiles('input[type=file]', MODEL_FILE);
    const info = await page.evaluate(async () => {
      globalThis.engine = await lamplight.createEngine({ model: document.querySelector('input').files[0], backend: 'cpu' });
      return engine.info;
    });
    assert.equal(info.model.fileBytes, MODEL_BYTES);
    assert.equal(await says(page), PARIS);
    assert.deepEqual(server.requests(MODEL_PATH), []);
    assert.deepEqual(await page.evaluate(() => lamplight.models.list()), []);
    await forget(page);
  });

  for (const [path, , codes] of BAD_FILES) {
    test(`${path} is refused with ${codes.join(' or ')}`, async () => {
      const error = await loadError(page, { ...CPU, model: path });
      assert.equal(error.name, 'LamplightError');
      assert.ok(codes.includes(error.code), `${error.code}: ${error.message}`);
      assert.ok(error.message.length > 20, error.message);
      assert.deepEqual(error.warnings, []);
      await assertLedger(page, NOTHING_HELD);
    });
  }

  test('an answer that is not a success is refused with its status', async () => {
    for (const status of [404, 403]) {
      server.fault('/models/other.gguf', { status, times: 1 });
      const error = await loadError(page, { ...CPU, model: '/models/other.gguf' });
      assert.equal(error.code, 'http-status');
      assert.match(error.message, new RegExp(String(status)));
    }
  });

  test('a sign-in page with status 200 in place of the model is refused before anything is kept', async () => {
    await forget(page);
    server.fault('/models/gated.gguf', { status: 200, body: '<html><body>Please sign in</body></html>' });
    const error = await loadError(page, { ...CPU, model: '/models/gated.gguf' });
    assert.equal(error.code, 'not-a-model');
    assert.deepEqual(error.warnings, []);
    await assertLedger(page, NOTHING_HELD);
    await recovers(page, CPU, base);
  });

  /** Loads by a signed link; `renewed` are the links that the app then gives, one after the other. */
  const loadSigned = (renewed, more = {}) => page.evaluate(async ([model, renewed, more]) => {
    await globalThis.engine?.dispose();
    const asked = [];
    const resolveUrl = async (url, { status }) => {
      asked.push([new URL(url).search, status]);
      if (renewed.length === 0) throw new Error('signed out');
      return renewed.shift();
    };
    try {
      const warnings = [];
      globalThis.engine = await lamplight.createEngine({ model, backend: 'cpu', resolveUrl, onWarning: ({ code }) => warnings.push(code), ...more });
      return { asked, warnings };
    } catch ({ code, message }) {
      globalThis.engine = undefined;
      return { asked, code, message };
    }
  }, [`${MODEL_PATH}?sig=1`, renewed, more]);

  test('a signed link that runs out midway is renewed by the app, once, and the download goes on where it was', async () => {
    await forget(page);
    server.clearLog();
    // Gone for good after the first parts, for all that are asked for together.
    let good = 4;
    server.fault(MODEL_PATH, { status: 403, when: ({ query }) => query === '?sig=1' && (good -= 1) < 0 });
    const { asked, warnings, message } = await loadSigned([`${MODEL_PATH}?sig=2`]);
    assert.equal(message, undefined);
    assert.deepEqual(warnings, []);
    assert.deepEqual(asked, [['?sig=1', 403]]);
    const answers = server.requests(MODEL_PATH).filter(({ status }) => status === 206);
    assert.ok(answers.some(({ query }) => query === '?sig=2'), 'the new link was not used');
    assert.ok(sentBytes() <= MODEL_BYTES, `${sentBytes()} bytes were sent`);
    // With the signature out of its key, the model is the one of the load without a fault.
    await assertBaseline(page, base);
  });

  test('an app that knows no other link says why, and one that names bad ones is not asked for ever', async () => {
    await forget(page);
    server.clearFaults();
    server.fault(MODEL_PATH, { status: 410 });
    const none = await loadSigned([]);
    assert.deepEqual([none.code, none.asked], ['http-status', [['?sig=1', 410]]]);
    assert.match(none.message, /signed out/);
    const bad = await loadSigned(Array(9).fill(`${MODEL_PATH}?sig=2`));
    assert.equal(bad.code, 'http-status');
    assert.equal(bad.asked.length, 3);
    server.clearFaults();
    server.fault(MODEL_PATH, { status: 401, when: ({ query }) => query === '?sig=1' });
    assert.equal((await loadSigned([`${MODEL_PATH}?sig=2`], { shared: true })).message, undefined);
    server.clearFaults();
    assert.equal(await says(page), PARIS);
  });

  test('a server that cannot be reached is a network error', async () => {
    const error = await loadError(page, { ...CPU, model: 'http://127.0.0.1:9/x.gguf' });
    assert.equal(error.code, 'network');
    // The browser itself reports refused connections; nothing else may have gone wrong.
    page.problems = page.problems.filter((problem) => !/ERR_|CORS|Access-Control/.test(problem));
    assertNoProblems(page);
  });
});
