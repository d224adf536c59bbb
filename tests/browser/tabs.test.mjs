// Several tabs of one origin: one download, one engine, and what becomes of both when a tab is closed or crashes.
import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import {
  CPU, MODEL_BYTES, MODEL_PATH, PARIS, PART_BYTES, around, assertLedger, assertNoProblems, forget, ledger, load, openPage, says, start,
} from './harness.mjs';

const SHARED = { ...CPU, shared: true };
const COUNT = { prompt: 'One, two, three, four,', temperature: 1, seed: 11, max_tokens: 48 };

/** Begins a load in the tab's `loading`; its progress goes to `phases`. */
const begin = (page, options) => page.evaluate((engineOptions) => {
  globalThis.progress = [];
  globalThis.stop = new AbortController();
  globalThis.loading = lamplight.createEngine({ ...engineOptions, signal: stop.signal, onProgress: (value) => progress.push({ ...value }) });
  loading.then((engine) => { globalThis.engine = engine; }, () => undefined);
}, options);
const loaded = (page) => page.evaluate(async () => ({ info: (await loading).info, progress }));
const reaches = (page, phase, bytes = 0) => page.waitForFunction(
  ([wanted, least]) => progress.some((value) => value.phase === wanted && value.loadedBytes >= least), [phase, bytes]);
const complete = (page, request) => page.evaluate(async (body) => (await engine.completions.create(body)).choices[0].text, request);
/** Begins a stream whose text grows in the tab's `text`; `streaming` is how it ends. */
const stream = (page, request) => page.evaluate((body) => {
  globalThis.text = '';
  globalThis.streaming = (async () => {
    for await (const chunk of await engine.completions.create({ ...body, stream: true })) {
      text += chunk.choices[0].text;
      if (chunk.choices[0].finish_reason) return chunk.choices[0].finish_reason;
    }
    return 'nothing';
  })().catch((error) => error.code);
}, request);
const streamed = (page) => page.evaluate(async () => ({ end: await streaming, text }));
const writes = (page) => page.waitForFunction(() => globalThis.text?.length > 8);

const N_PARTS = Math.ceil(MODEL_BYTES / PART_BYTES);
/** The locks of two tabs that share an engine: each stands in line for it and holds one that the engine's tab waits for. */
const locksOfTwo = (locks) => [...new Set(locks)].flatMap((name) => Array(name === 'lamplight:member' ? 4 : 2).fill(name));

describe('tabs', () => {
  let server, browser, home;
  const sent = () => server.requests(MODEL_PATH).reduce((sum, entry) => sum + entry.sent, 0);
  const open = () => openPage(browser, server);
  around({}, (started) => { ({ server, browser, page: home } = started); });
  // Whatever became of the tabs, no worker and no lock outlives them.
  afterEach(() => assertLedger(home, { workers: 1, locks: [], memory: null }));

  test('two tabs that want a model cause one download; the second sees its progress and reads the store', async () => {
    server.fault(MODEL_PATH, { bytesPerSecond: 8e6 });
    const [a, b] = [await open(), await open()];
    await begin(a, CPU);
    await reaches(a, 'downloading');
    await begin(b, CPU);
    await reaches(b, 'waiting', 1);
    server.clearFaults();
    const [first, second] = await Promise.all([loaded(a), loaded(b)]);
    assert.equal(first.info.load.fromCache, false);
    assert.equal(second.info.load.fromCache, true);
    assert.equal(second.info.load.networkBytes, 0);
    assert.ok(sent() < MODEL_BYTES + PART_BYTES, `${sent()} bytes were sent`);
    const fractions = second.progress.map(({ fraction }) => fraction);
    assert.deepEqual(fractions, [...fractions].sort((x, y) => x - y));
    assert.equal(fractions.at(-1), 1);
    for (const page of [a, b]) {
      assert.equal(await says(page), PARIS);
      assert.deepEqual(await page.evaluate(() => engine.info.warnings), []);
      assertNoProblems(page);
      await page.close();
    }
  });

  test('a tab that waits can be stopped, and one that downloads can be closed: the next goes on from what is stored', async () => {
    await forget(home);
    server.clearFaults();
    server.clearLog();
    server.fault(MODEL_PATH, { bytesPerSecond: 12e6 });
    const [a, b, c] = [await open(), await open(), await open()];
    await begin(a, CPU);
    await reaches(a, 'downloading');
    for (const page of [b, c]) await begin(page, CPU);
    for (const page of [b, c]) await reaches(page, 'waiting');
    const code = await b.evaluate(() => { stop.abort(); return loading.then(() => 'loaded', (error) => error.code); });
    assert.equal(code, 'aborted');
    await reaches(c, 'waiting', 3 * PART_BYTES);
    const stored = await b.evaluate(async () => (await lamplight.models.list())[0].bytesStored);
    await a.close();
    server.clearLog();
    server.clearFaults();
    const { info } = await loaded(c);
    assert.ok(stored >= PART_BYTES, `${stored} bytes were stored`);
    assert.ok(info.load.networkBytes <= MODEL_BYTES - stored, `${info.load.networkBytes} bytes were sent again, ${stored} were stored`);
    assert.equal(await says(c), PARIS);
    assert.deepEqual(info.warnings, []);
    await assertLedger(home, { stored: { models: [server.origin + MODEL_PATH], parts: N_PARTS, blobs: N_PARTS, unreadable: 0, unused: 0 } });
    for (const page of [b, c]) await page.close();
  });

  test('tabs share one engine: one worker, the same text as alone, turns, and each can be stopped', async () => {
    const alone = await open();
    await load(alone, CPU);
    const text = await complete(alone, COUNT);
    await alone.close();
    const pages = [await open(), await open(), await open()];
    for (const page of pages) await begin(page, SHARED);
    for (const page of pages) assert.equal((await loaded(page)).progress.at(-1).fraction, 1);
    const engines = () => pages.filter((page) => page.workers().length > 0).length;
    assert.equal(engines(), 1);
    const [a, b, c] = pages;
    assert.deepEqual(await Promise.all(pages.map((page) => complete(page, COUNT))), [text, text, text]);
    // One writes at length; another is stopped while it waits, a third has its turn after the first.
    await stream(a, { ...COUNT, max_tokens: 400 });
    await writes(a);
    await stream(c, COUNT);
    const waited = await b.evaluate(async (request) => {
      const stop = new AbortController();
      setTimeout(() => stop.abort(), 50);
      return engine.completions.create({ ...request, signal: stop.signal }).then(() => 'answered', (error) => error.code);
    }, COUNT);
    assert.equal(waited, 'aborted');
    assert.equal(await c.evaluate(() => globalThis.text), '');
    // Whoever leaves makes room.
    await a.evaluate(() => engine.dispose());
    assert.deepEqual(await streamed(c), { end: 'length', text });
    assert.equal(engines(), 1, 'the engine stays where it is as long as somebody uses it');
    await b.evaluate(() => engine.dispose());
    await c.evaluate(() => engine.dispose());
    while (engines() > 0) await a.waitForTimeout(20);
    for (const page of pages) {
      assertNoProblems(page);
      await page.close();
    }
  });

  for (const how of ['closed', 'crashed']) {
    test(`when the tab with the engine is ${how}, another takes over and the text goes on as if nothing had happened`, async () => {
      const a = await open();
      await load(a, SHARED);
      const expected = await complete(a, COUNT);
      const [b, c] = [await open(), await open()];
      for (const page of [b, c]) await load(page, SHARED);
      assert.equal(b.workers().length + c.workers().length, 0);
      const { workers, locks, stored } = await ledger(home);
      await stream(b, COUNT);
      await stream(c, { ...COUNT, seed: 12 });
      await writes(b);
      if (how === 'closed') {
        await a.close();
      } else {
        const session = await browser.context.newCDPSession(a);
        await Promise.race([session.send('Page.crash').catch(() => undefined), a.waitForEvent('crash')]);
      }
      assert.deepEqual(await streamed(b), { end: 'length', text: expected });
      assert.equal((await streamed(c)).end, 'length');
      assert.equal([b, c].filter((page) => page.workers().length > 0).length, 1);
      assert.equal(await complete(c, COUNT), expected);
      await assertLedger(home, { workers, locks: locksOfTwo(locks), stored });
      for (const page of [b, c]) {
        assert.deepEqual(await page.evaluate(() => engine.info.warnings), []);
        assertNoProblems(page);
        await page.close();
      }
      await a.close().catch(() => undefined);
    });
  }

  test('on WebGPU another tab takes over with the same text', async () => {
    const { browser: gpu, page: a, close } = await start({ gpu: 'lavapipe', server });
    try {
      const options = { ...SHARED, backend: 'webgpu' };
      const b = await openPage(gpu, server);
      await load(a, options);
      const expected = await complete(a, COUNT);
      assert.equal((await load(b, options)).info.backend, 'webgpu');
      await stream(b, COUNT);
      await writes(b);
      await a.close();
      assert.deepEqual(await streamed(b), { end: 'length', text: expected });
      assert.equal(await b.evaluate(() => engine.info.backend), 'webgpu');
      assertNoProblems(b);
    } finally {
      await close();
    }
  });

  test('what cannot be shared is refused', async () => {
    const page = await open();
    const code = await page.evaluate(() => lamplight.createEngine({ model: new Blob(['x']), shared: true }).then(() => 'loaded', ({ code, field }) => `${code} ${field}`));
    assert.equal(code, 'invalid-request shared');
    await load(page, SHARED);
    assert.equal(await page.evaluate(() => engine.setAdapters([]).then(() => 'set', (error) => error.code)), 'invalid-request');
    assertNoProblems(page);
    await page.close();
  });
});
