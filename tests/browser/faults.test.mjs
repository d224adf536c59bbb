// Faults between server, network, browser and disk: each ends in the same text as a load without them, or in an error that says what.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { after, beforeEach, describe, test } from 'node:test';
import zlib from 'node:zlib';
import {
  CPU, MODEL_BYTES, MODEL_FILE, MODEL_PATH, NOTHING_HELD, PART_BYTES, around, assertBaseline, assertLedger, assertNoProblems, baseline, begin, end, forget,
  load, loadError, openPage, recovers, says,
} from './harness.mjs';

const SILENT_PATH = '/models/silent.gguf';
const part = (entry) => Math.floor(Number(/=(\d+)-/.exec(entry.range)?.[1] ?? 0) / PART_BYTES);

describe('faults on the way', () => {
  let server, browser, page, base, silence;
  around({ files: { [SILENT_PATH]: MODEL_FILE } }, async (started) => {
    ({ server, browser, page } = started);
    base = await baseline(page, CPU);
    silence = await beginSilence();
  });
  after(() => silence?.context.close());
  beforeEach(async () => {
    server.clearFaults();
    await forget(page);
    server.clearLog();
  });
  /** Begins a load in a browser beside, two parts of which go silent; the last test looks at it, for it takes half a minute. */
  const beginSilence = async () => {
    const context = await browser.newPrivate();
    const other = await openPage({ context }, server);
    const ranges = [];
    context.on('request', (request) => {
      if (request.url().endsWith(SILENT_PATH)) ranges.push(request.headers().range);
    });
    server.fault(SILENT_PATH, { holdAfter: 1e6, times: 1, when: (entry) => part(entry) === 1 });
    // Not even its headers come.
    server.fault(SILENT_PATH, { holdAfter: 0, times: 1, when: (entry) => part(entry) === 2 });
    const loading = load(other, { ...CPU, model: SILENT_PATH });
    loading.catch(() => undefined);
    const asked = (index) => server.requests(SILENT_PATH).some((entry) => part(entry) === index);
    while (!asked(1) || !asked(2)) await other.waitForTimeout(20);
    return { context, page: other, ranges, loading };
  };

  test('requests that fail outright are made again', async () => {
    const session = await browser.context.newCDPSession(page);
    let failed = 0;
    session.on('Fetch.requestPaused', ({ requestId }) => {
      failed += 1;
      const done = failed <= 3 ? session.send('Fetch.failRequest', { requestId, errorReason: 'ConnectionReset' }) : session.send('Fetch.continueRequest', { requestId });
      done.catch(() => undefined);
    });
    await session.send('Fetch.enable', { patterns: [{ urlPattern: `*${MODEL_PATH}` }] });
    await recovers(page, CPU, base);
    await session.send('Fetch.disable');
    await session.detach();
    assert.ok(failed > 3);
  });

  test('a download waits while there is no network, and goes on by itself', async () => {
    server.fault(MODEL_PATH, { bytesPerSecond: 20e6 });
    await begin(page, 20e6);
    await browser.context.setOffline(true);
    server.setOnline(false, MODEL_PATH);
    server.clearFaults();
    // Longer than all tries together would last, were they counted.
    await new Promise((done) => setTimeout(done, 6_000));
    server.setOnline(true);
    await browser.context.setOffline(false);
    const { info, warnings } = await end(page);
    assert.deepEqual(warnings, []);
    assert.equal(info.load.cached, true);
    await assertBaseline(page, base);
  });

  test('a link that drips is waited for, and its progress never falls', async () => {
    server.fault(MODEL_PATH, { bytesPerSecond: 12e6 });
    const { progress } = await recovers(page, CPU, base);
    const seen = progress.filter(({ phase }) => phase === 'downloading').map(({ loadedBytes }) => loadedBytes);
    assert.ok(seen.length > 10, `${seen.length} reports`);
    assert.deepEqual(seen, [...seen].sort((a, b) => a - b));
  });

  test('a server that asks for patience is given it, be it in seconds or by a date', async () => {
    server.fault(MODEL_PATH, { status: 429, times: 1, headers: { 'Retry-After': '1' } });
    server.fault(MODEL_PATH, { status: 503, times: 1, headers: { 'Retry-After': new Date(Date.now() + 1500).toUTCString() }, when: (entry) => part(entry) === 2 });
    await recovers(page, CPU, base);
    assert.deepEqual(server.requests(MODEL_PATH).map((entry) => entry.status).filter((status) => status !== 206), [429, 503]);
  });

  test('ranges of a compressed answer cannot be placed, and are refused', async () => {
    const body = zlib.gzipSync(fs.readFileSync(MODEL_FILE).subarray(0, 1 << 20));
    server.fault(MODEL_PATH, {
      status: 206, body,
      headers: { 'Content-Type': 'application/octet-stream', 'Content-Encoding': 'gzip', 'Content-Range': `bytes 0-2097151/${MODEL_BYTES}` },
    });
    const error = await loadError(page, CPU);
    // Chromium refuses such an answer before anybody sees it; where a browser does not, the header is looked at.
    assert.ok(['integrity', 'network'].includes(error.code), error.message);
    assert.deepEqual(error.warnings, []);
    await assertLedger(page, NOTHING_HELD);
    server.clearFaults();
    await recovers(page, CPU, base);
  });

  test('an answer that ends early is gone on with; one that refuses a range means another file, which is begun anew', async () => {
    server.fault(MODEL_PATH, { cutAfter: 5e6, times: 1, when: (entry) => part(entry) === 1 });
    await recovers(page, CPU, base);
    assert.ok(server.requests(MODEL_PATH).some(({ sent }) => sent === 5e6));
    await forget(page);
    server.fault(MODEL_PATH, { status: 416, times: 1, when: (entry) => part(entry) === 3 });
    await recovers(page, CPU, base, { warnings: ['http-status'] });
    assert.ok(server.requests(MODEL_PATH).some(({ status }) => status === 416));
  });

  test('parts are fetched side by side', async () => {
    server.fault(MODEL_PATH, { bytesPerSecond: 30e6 });
    await recovers(page, CPU, base);
    assert.ok(server.peak(MODEL_PATH) >= 2 && server.peak(MODEL_PATH) <= 6, `${server.peak(MODEL_PATH)} at a time`);
  });

  test('a server without ranges is asked once', async () => {
    server.fault(MODEL_PATH, { noRanges: true });
    await recovers(page, CPU, base);
    assert.equal(server.peak(MODEL_PATH), 1);
    assert.ok(server.requests(MODEL_PATH).every((entry) => entry.status === 200));
  });

  test('a load that is cancelled at any moment leaves nothing that runs, and the next one is as ever', async () => {
    server.fault(MODEL_PATH, { bytesPerSecond: 60e6 });
    // Before anything, in each phase, and after each part; `cancelled` counts the reports of progress.
    for (const phase of ['now', 'starting', 'header', 'downloading']) {
      for (const bytes of phase === 'downloading' ? [0, 20e6, 50e6, 90e6] : [0]) {
        const outcome = await page.evaluate(async ([options, wanted, least]) => {
          const stop = new AbortController();
          if (wanted === 'now') stop.abort();
          const loading = lamplight.createEngine({
            ...options, signal: stop.signal,
            onProgress: ({ phase, loadedBytes }) => { if (phase === wanted && loadedBytes >= least) stop.abort(); },
          });
          return loading.then(async (engine) => { await engine.dispose(); return 'loaded'; }, ({ code }) => code);
        }, [CPU, phase, bytes]);
        assert.equal(outcome, 'aborted', `${phase} ${bytes}`);
        await assertLedger(page, { workers: 1, locks: [], memory: null });
      }
    }
    server.clearFaults();
    await recovers(page, CPU, base);
  });

  test('a text that is cancelled at any moment leaves the engine as it was', async () => {
    await load(page, CPU);
    // At once, in the prompt, and after each of the first tokens.
    const outcomes = await page.evaluate(async () => {
      const found = [];
      const prompt = 'The keeper walked along the stones to light the lamp. '.repeat(20);
      for (let after = -2; after <= 4; after += 1) {
        const stop = new AbortController();
        if (after === -2) stop.abort();
        if (after === -1) queueMicrotask(() => stop.abort());
        let tokens = 0;
        found.push(await (async () => {
          let reason;
          const stream = await engine.completions.create({ prompt: `${after} ${prompt}`, temperature: 0, max_tokens: 64, stream: true, signal: stop.signal });
          for await (const { choices } of stream) {
            if (tokens === after) stop.abort();
            tokens += 1;
            reason = choices[0].finish_reason;
          }
          return reason;
        })().catch(({ code }) => code));
      }
      return found;
    });
    assert.ok(outcomes.every((outcome) => /^abort(ed)?$/.test(outcome)), String(outcomes));
    await assertBaseline(page, base);
  });

  test('a connection that goes silent is cut and tried again', async () => {
    const { info, warnings } = await silence.loading;
    assert.deepEqual(warnings, []);
    assert.equal(info.load.cached, true);
    for (const silent of [1, 2]) assert.ok(silence.ranges.filter((range) => part({ range }) === silent).length >= 2, String(silence.ranges));
    assert.equal(await says(silence.page, { tokens: 8 }), base.text);
    assertNoProblems(silence.page);
  });
});
