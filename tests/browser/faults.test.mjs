// Faults between server, network, browser and disk: each ends in the same text as a load without them, or in an error that says what.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import zlib from 'node:zlib';
import {
  CPU, MODEL_BYTES, MODEL_FILE, MODEL_PATH, NOTHING_HELD, NOTHING_STORED, PART_BYTES, around, assertBaseline, assertLedger, assertNoProblems, baseline, forget,
  launch, load, loadError, openPage, recovers, says, startPackageServer,
} from './harness.mjs';

const SILENT_PATH = '/models/silent.gguf';
const N_PARTS = Math.ceil(MODEL_BYTES / PART_BYTES);
const part = (entry) => Math.floor(Number(/=(\d+)-/.exec(entry.range)?.[1] ?? 0) / PART_BYTES);

/** The browser process of a profile: only one that this test started has it on its command line. */
function browserPid(profile) {
  return fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).find((pid) => {
    try {
      const args = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return args.includes(`--user-data-dir=${profile}`) && !args.some((arg) => arg.startsWith('--type='));
    } catch {
      return false;
    }
  });
}

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
  /** Begins a load whose progress in bytes is the page's `seen`, and waits until it is past `bytes`. */
  const begin = async (bytes) => {
    await page.evaluate((options) => {
      globalThis.seen = 0;
      globalThis.heard = [];
      globalThis.loading = lamplight.createEngine({
        ...options, onProgress: ({ loadedBytes }) => { globalThis.seen = loadedBytes; }, onWarning: ({ code }) => heard.push(code),
      });
    }, CPU);
    await page.waitForFunction((least) => globalThis.seen > least, bytes);
  };
  const end = () => page.evaluate(async () => {
    globalThis.engine = await loading;
    return { info: engine.info, warnings: heard };
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
    await begin(20e6);
    await browser.context.setOffline(true);
    server.setOnline(false, MODEL_PATH);
    server.clearFaults();
    // Longer than all tries together would last, were they counted.
    await new Promise((done) => setTimeout(done, 6_000));
    server.setOnline(true);
    await browser.context.setOffline(false);
    const { info, warnings } = await end();
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

  test('site data that is cleared while a model loads or runs costs its storage and nothing else', async () => {
    const session = await browser.context.newCDPSession(page);
    const clear = () => session.send('Storage.clearDataForOrigin', { origin: server.origin, storageTypes: 'indexeddb' });
    server.fault(MODEL_PATH, { bytesPerSecond: 20e6 });
    await begin(60e6);
    await clear();
    await end();
    server.clearFaults();
    assert.equal(await says(page, { tokens: 8 }), base.text);
    await clear();
    await assertBaseline(page, base, { stored: NOTHING_STORED });
    await recovers(page, CPU, base);
    assert.equal((await recovers(page, CPU, base)).info.load.fromCache, true);
  });

  test('a database that is deleted, and stores that are emptied, under a running engine are made anew', async () => {
    await recovers(page, CPU, base);
    const session = await browser.context.newCDPSession(page);
    const database = { securityOrigin: server.origin, databaseName: 'lamplight' };
    const faults = [
      () => session.send('IndexedDB.deleteDatabase', database),
      () => session.send('IndexedDB.clearObjectStore', { ...database, objectStoreName: 'blobs' }),
      () => session.send('IndexedDB.clearObjectStore', { ...database, objectStoreName: 'partInfo' }),
      () => session.send('IndexedDB.clearObjectStore', { ...database, objectStoreName: 'models' }),
    ];
    for (const [index, fault] of faults.entries()) {
      await fault();
      assert.equal(await says(page, { tokens: 8 }), base.text, 'a running engine needs no storage');
      const { info } = await recovers(page, CPU, base, { warnings: index === 1 ? Array(N_PARTS).fill('integrity') : [] });
      assert.equal(info.load.fromCache, false);
    }
  });

  test('a private window works, and what it kept goes with it', async () => {
    const context = await browser.newPrivate();
    try {
      const other = await openPage({ context }, server);
      const { info, warnings } = await load(other, CPU);
      assert.deepEqual(warnings, []);
      assert.equal(await says(other, { tokens: 8 }), base.text);
      assert.equal(info.load.fromCache, false);
    } finally {
      await context.close();
    }
  });

  test('a tab that crashes in the middle of a download: another goes on with the parts that are whole', async () => {
    server.fault(MODEL_PATH, { bytesPerSecond: 20e6 });
    const other = await openPage(browser, server);
    await other.evaluate((options) => {
      globalThis.seen = 0;
      lamplight.createEngine({ ...options, onProgress: ({ loadedBytes }) => { globalThis.seen = loadedBytes; } }).catch(() => undefined);
    }, CPU);
    await other.waitForFunction(() => globalThis.seen > 70e6);
    const crash = await browser.context.newCDPSession(other);
    await Promise.race([crash.send('Page.crash').catch(() => undefined), other.waitForEvent('crash')]);
    await other.close();
    server.clearFaults();
    const [kept] = await page.evaluate(() => lamplight.models.list());
    assert.ok(kept.bytesStored >= PART_BYTES && kept.bytesStored % PART_BYTES === 0, `${kept.bytesStored} bytes`);
    const { info } = await recovers(page, CPU, base);
    assert.equal(info.load.networkBytes, MODEL_BYTES - kept.bytesStored);
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

describe('faults of the browser and its disk', () => {
  let server, profile, base;
  before(async () => {
    server = await startPackageServer();
    profile = fs.mkdtempSync(path.join(os.tmpdir(), 'lamplight-profile-'));
  });
  after(async () => {
    await server?.close();
    fs.rmSync(profile, { recursive: true, force: true });
  });

  test('a browser that is killed in the middle of a download goes on from whole parts', async () => {
    const killed = await launch({ gpu: 'none', profile });
    const page = await openPage(killed, server);
    base = await baseline(page, CPU);
    await forget(page);
    server.fault(MODEL_PATH, { bytesPerSecond: 10e6 });
    page.evaluate((options) => lamplight.createEngine({ ...options, onProgress: ({ loadedBytes }) => { globalThis.seen = loadedBytes; } }), CPU).catch(() => undefined);
    await page.waitForFunction(() => globalThis.seen > 70e6);
    process.kill(browserPid(profile), 'SIGKILL');
    await killed.close().catch(() => undefined);
    server.clearFaults();
    const browser = await launch({ gpu: 'none', profile });
    try {
      const again = await openPage(browser, server);
      const [model] = await again.evaluate(() => lamplight.models.list());
      assert.ok(model.bytesStored >= PART_BYTES && model.bytesStored % PART_BYTES === 0, `${model.bytesStored} bytes`);
      assert.equal(model.clean, false);
      const { info } = await recovers(again, CPU, base);
      assert.ok(info.load.networkBytes <= MODEL_BYTES - model.bytesStored, `${info.load.networkBytes} bytes were fetched`);
    } finally {
      await browser.close();
    }
  });

  test('blobs that are gone, cut short or changed on disk are fetched again; a trashed database begins anew', async () => {
    const database = (end) => {
      const folder = path.join(profile, 'Default', 'IndexedDB');
      return path.join(folder, fs.readdirSync(folder).find((name) => name.endsWith(end)));
    };
    const blobFiles = () => fs.readdirSync(database('.indexeddb.blob'), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name))
      .filter((file) => fs.statSync(file).size === PART_BYTES).sort();
    const faults = [
      [(file) => fs.rmSync(file), PART_BYTES],
      [(file) => fs.truncateSync(file, 1000), PART_BYTES],
      [(file) => {
        const handle = fs.openSync(file, 'r+');
        fs.writeSync(handle, Buffer.from('damage'), 0, 6, 5_000_000);
        fs.closeSync(handle);
      }, PART_BYTES],
      [() => {
        const folder = database('.indexeddb.leveldb');
        fs.writeFileSync(path.join(folder, fs.readdirSync(folder).find((name) => name.startsWith('MANIFEST'))), 'damage');
      }, MODEL_BYTES],
    ];
    for (const [spoil, bytes] of faults) {
      spoil(blobFiles()[1]);
      const browser = await launch({ gpu: 'none', profile });
      try {
        const page = await openPage(browser, server);
        // Every part is checked, as after a load that died.
        await page.evaluate(async () => { for (const { key } of await lamplight.models.list()) await lamplight.models.verify(key); });
        const { info } = await recovers(page, CPU, base);
        assert.equal(info.load.networkBytes, bytes);
      } finally {
        await browser.close();
      }
    }
  });
});
