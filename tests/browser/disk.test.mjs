// Faults of the browser and its disk: data that is cleared, tabs and browsers that end, files that change. On every store that has files of its own.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import {
  CPU, MODEL_BYTES, MODEL_PATH, NOTHING_STORED, PART_BYTES, around, assertBaseline, baseline, begin, chooseStore, end, forget, launch, openPage, recovers, says,
  startPackageServer,
} from './harness.mjs';

const N_PARTS = Math.ceil(MODEL_BYTES / PART_BYTES);

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

for (const store of ['indexeddb', 'opfs']) describe(`faults of the browser, with ${store}`, () => {
  let server, browser, page, base;
  around({}, async (started) => {
    ({ server, browser, page } = started);
    await chooseStore(page, store);
    base = await baseline(page, CPU);
  });
  beforeEach(async () => {
    server.clearFaults();
    await forget(page);
    server.clearLog();
  });

  test('site data that is cleared while a model loads or runs costs its storage and nothing else', async () => {
    const session = await browser.context.newCDPSession(page);
    const clear = () => session.send('Storage.clearDataForOrigin', { origin: server.origin, storageTypes: 'indexeddb,file_systems' });
    server.fault(MODEL_PATH, { bytesPerSecond: 20e6 });
    await begin(page, 60e6);
    await clear();
    const { warnings } = await end(page);
    assert.deepEqual(warnings, []);
    server.clearFaults();
    assert.equal(await says(page, { tokens: 8 }), base.text);
    await clear();
    await assertBaseline(page, base, { stored: NOTHING_STORED });
    await chooseStore(page, store);
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
      await chooseStore(page, store);
      assert.equal(await says(page, { tokens: 8 }), base.text, 'a running engine needs no storage');
      const { info } = await recovers(page, CPU, base, { warnings: index === 1 ? Array(N_PARTS).fill('integrity') : [] });
      assert.equal(info.load.fromCache, false);
    }
  });

  test('a private window works, and what it kept goes with it', async () => {
    for (let visit = 0; visit < 2; visit += 1) {
      const context = await browser.newPrivate();
      try {
        const other = await openPage({ context }, server);
        await chooseStore(other, store);
        const { info } = await recovers(other, CPU, base);
        assert.deepEqual([info.load.fromCache, info.load.cached, info.load.networkBytes], [false, true, MODEL_BYTES]);
        assert.equal((await recovers(other, CPU, base)).info.load.fromCache, true);
      } finally {
        await context.close();
      }
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
});

for (const store of ['indexeddb', 'opfs']) describe(`faults of the disk, with ${store}`, () => {
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
    await chooseStore(page, store);
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
    const folder = () => (store === 'opfs' ? path.join(profile, 'Default', 'File System') : database('.indexeddb.blob'));
    const blobFiles = () => fs.readdirSync(folder(), { recursive: true, withFileTypes: true })
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
