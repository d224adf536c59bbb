// Faults between server, network, browser and disk: each ends in the same text as a load without them, or in an error that says what.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import zlib from 'node:zlib';
import { CPU, MODEL_BYTES, MODEL_FILE, MODEL_PATH, PARIS, PART_BYTES, around, assertNoProblems, forget, launch, load, loadError, openPage, says, startPackageServer } from './harness.mjs';

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
  let server, browser, page;
  around({}, (started) => { ({ server, browser, page } = started); });

  test('requests that fail outright are made again', async () => {
    await forget(page);
    const session = await browser.context.newCDPSession(page);
    let failed = 0;
    session.on('Fetch.requestPaused', ({ requestId }) => {
      failed += 1;
      const done = failed <= 3 ? session.send('Fetch.failRequest', { requestId, errorReason: 'ConnectionReset' }) : session.send('Fetch.continueRequest', { requestId });
      done.catch(() => undefined);
    });
    await session.send('Fetch.enable', { patterns: [{ urlPattern: `*${MODEL_PATH}` }] });
    await load(page, CPU);
    await session.send('Fetch.disable');
    await session.detach();
    assert.ok(failed > 3);
    assert.equal(await says(page), PARIS);
  });

  test('a download waits while there is no network, and goes on by itself', async () => {
    await forget(page);
    server.fault(MODEL_PATH, { bytesPerSecond: 20e6 });
    const loading = page.evaluate(async (options) => {
      globalThis.seen = 0;
      globalThis.engine = await lamplight.createEngine({ ...options, onProgress: ({ loadedBytes }) => { globalThis.seen = loadedBytes; } });
      return engine.info;
    }, CPU);
    await page.waitForFunction(() => globalThis.seen > 20e6);
    await browser.context.setOffline(true);
    server.setOnline(false, MODEL_PATH);
    server.clearFaults();
    // Longer than all tries together would last, were they counted.
    await new Promise((done) => setTimeout(done, 12_000));
    server.setOnline(true);
    await browser.context.setOffline(false);
    const info = await loading;
    assert.equal(info.load.cached, true);
    assert.equal(await says(page), PARIS);
  });

  test('a server that asks for patience is given it, be it in seconds or by a date', async () => {
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { status: 429, times: 1, headers: { 'Retry-After': '1' } });
    server.fault(MODEL_PATH, { status: 503, times: 1, headers: { 'Retry-After': new Date(Date.now() + 1500).toUTCString() }, when: (entry) => part(entry) === 2 });
    await load(page, CPU);
    assert.deepEqual(server.requests(MODEL_PATH).map((entry) => entry.status).filter((status) => status !== 206), [429, 503]);
    assert.equal(await says(page), PARIS);
  });

  test('ranges of a compressed answer cannot be placed, and are refused', async () => {
    await forget(page);
    const body = zlib.gzipSync(fs.readFileSync(MODEL_FILE).subarray(0, 1 << 20));
    server.fault(MODEL_PATH, {
      status: 206, body,
      headers: { 'Content-Type': 'application/octet-stream', 'Content-Encoding': 'gzip', 'Content-Range': `bytes 0-2097151/${MODEL_BYTES}` },
    });
    const error = await loadError(page, CPU);
    server.clearFaults();
    // Chromium refuses such an answer before anybody sees it; where a browser does not, the header is looked at.
    assert.ok(['integrity', 'network'].includes(error.code), error.message);
    assert.deepEqual(await page.evaluate(() => lamplight.models.list()), []);
  });

  test('parts are fetched side by side, and a server without ranges is asked once', async () => {
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { bytesPerSecond: 30e6 });
    await load(page, CPU);
    assert.ok(server.peak(MODEL_PATH) >= 2 && server.peak(MODEL_PATH) <= 6, `${server.peak(MODEL_PATH)} at a time`);
    server.clearFaults();
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { noRanges: true });
    await load(page, CPU);
    server.clearFaults();
    assert.equal(server.peak(MODEL_PATH), 1);
    assert.equal(await says(page), PARIS);
  });

  test('site data that is cleared while a model loads or runs costs its storage and nothing else', async () => {
    await forget(page);
    const session = await browser.context.newCDPSession(page);
    const clear = () => session.send('Storage.clearDataForOrigin', { origin: server.origin, storageTypes: 'indexeddb' });
    server.fault(MODEL_PATH, { bytesPerSecond: 20e6 });
    const loading = page.evaluate(async (options) => {
      globalThis.seen = 0;
      globalThis.engine = await lamplight.createEngine({ ...options, onProgress: ({ loadedBytes }) => { globalThis.seen = loadedBytes; } });
    }, CPU);
    await page.waitForFunction(() => globalThis.seen > 60e6);
    await clear();
    await loading;
    server.clearFaults();
    assert.equal(await says(page), PARIS);
    await clear();
    assert.equal(await says(page), PARIS);
    assert.deepEqual(await page.evaluate(() => lamplight.models.list()), []);
    await load(page, CPU);
    assert.equal((await load(page, CPU)).info.load.fromCache, true);
    assert.equal(await says(page), PARIS);
    assertNoProblems(page);
  });

  test('a private window works, and what it kept goes with it', async () => {
    const context = await browser.newPrivate();
    try {
      const other = await openPage({ context }, server);
      const { info } = await load(other, CPU);
      assert.equal(await says(other), PARIS);
      assert.equal(info.load.fromCache, false);
    } finally {
      await context.close();
    }
  });

  test('a connection that goes silent is cut and tried again', { skip: !process.env.LAMPLIGHT_LONG && 'takes a minute (make test-all)' }, async () => {
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { holdAfter: 1e6, times: 1, when: (entry) => part(entry) === 1 });
    await load(page, CPU);
    assert.ok(server.requests(MODEL_PATH).filter((entry) => part(entry) === 1).length >= 2);
    assert.equal(await says(page), PARIS);
  });
});

describe('faults of the browser and its disk', () => {
  let server, profile;
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
      const { info } = await load(again, CPU);
      assert.ok(info.load.networkBytes <= MODEL_BYTES - model.bytesStored, `${info.load.networkBytes} bytes were fetched`);
      assert.deepEqual(info.warnings, []);
      assert.equal(await says(again), PARIS);
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
        const { info } = await load(page, CPU);
        assert.equal(info.load.networkBytes, bytes);
        assert.equal(await says(page), PARIS);
      } finally {
        await browser.close();
      }
    }
  });
});
