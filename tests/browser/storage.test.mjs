// What can go wrong between a server and this browser's storage: damaged parts, a full disk, no storage at all, a file that changed.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import {
  CPU, MODEL_BYTES, MODEL_FILE, MODEL_PATH, NOTHING_HELD, NOTHING_STORED, PART_BYTES, ROOT, STORES, around, assertLedger, baseline, chooseStore, forget, load, loadError,
  recovers, says, spoil, start, withDatabase,
} from './harness.mjs';

const N_PARTS = Math.ceil(MODEL_BYTES / PART_BYTES);

/** Damages a stored part, as if the last load had died besides: every part is then looked at. */
async function damage(page, index, how) {
  await spoil(page, index, how);
  await withDatabase(page, async (db, done) => {
    const models = db.transaction('models', 'readwrite').objectStore('models');
    const [key] = await done(models.getAllKeys());
    await done(models.put({ ...await done(models.get(key)), clean: false }, key));
  });
}

for (const store of STORES) describe(`storage in ${store}`, () => {
  const table = {};
  let server, page, base;
  around({ table }, async (started) => {
    ({ server, page } = started);
    await chooseStore(page, store);
    base = await baseline(page, CPU);
    assert.equal(await page.evaluate(() => engine.info.load.store), store);
  });
  const ranges = () => server.requests(MODEL_PATH).map((entry) => entry.range);

  test('a damaged, a shortened and a lost part are each fetched again, alone', async () => {
    for (const [index, how] of [[2, 'flip'], [N_PARTS - 1, 'shorten'], [1, 'lose']]) {
      await page.evaluate(() => engine.dispose());
      await damage(page, index, how);
      server.clearLog();
      const { info } = await recovers(page, CPU, base, { warnings: ['integrity'] });
      const end = Math.min((index + 1) * PART_BYTES, MODEL_BYTES) - 1;
      assert.deepEqual(ranges(), [`bytes=${index * PART_BYTES}-${end}`], how);
      assert.equal(info.load.fromCache, false);
    }
    server.clearLog();
    const { info } = await recovers(page, CPU, base);
    assert.equal(info.load.fromCache, true);
  });

  test('a part that is fetched again must be the one that was stored', async () => {
    const pinned = { ...CPU, model: { url: MODEL_PATH, sha256: createHash('sha256').update(fs.readFileSync(MODEL_FILE)).digest('hex') } };
    await load(page, pinned);
    await page.evaluate(() => engine.dispose());
    await damage(page, 2, 'flip');
    server.fault(MODEL_PATH, { flipByteAt: 2 * PART_BYTES + 77 });
    const error = await loadError(page, pinned);
    server.clearFaults();
    assert.equal(error.code, 'integrity', error.message);
    assert.deepEqual(await page.evaluate(() => lamplight.models.list()), [], 'a file that is not the one asked for was kept');
    await load(page, pinned);
    assert.equal(await says(page, { tokens: 8 }), base.text);
  });

  test('a whole file is compared to its last byte, however much follows its tensors', async () => {
    const url = '/models/tail.gguf';
    const bytes = Buffer.concat([fs.readFileSync(path.join(ROOT, 'tests/golden/llama32/model.gguf')), Buffer.alloc(PART_BYTES + 1000, 7)]);
    table[url] = bytes;
    const pinned = { ...CPU, model: { url, sha256: createHash('sha256').update(bytes).digest('hex') } };
    await load(page, pinned);
    await forget(page);
    server.fault(url, { flipByteAt: bytes.length - 1 });
    assert.equal((await loadError(page, pinned)).code, 'integrity');
    server.clearFaults();
    await load(page, CPU);
  });

  test('a damaged first part is found before its header is believed', async () => {
    await page.evaluate(() => engine.dispose());
    await damage(page, 0, 'flip');
    server.clearLog();
    await recovers(page, CPU, base, { warnings: ['integrity'] });
    assert.ok(ranges().length > 0 && ranges().every((range) => Number(/=\d+-(\d+)/.exec(range)[1]) < PART_BYTES), String(ranges()));
  });

  test('a file that changed on the server replaces a download that was begun', async () => {
    await forget(page);
    server.fault(MODEL_PATH, { headers: { ETag: '"old"' }, when: (entry) => !/=33554432-/.test(entry.range) });
    server.fault(MODEL_PATH, { status: 404, when: (entry) => /=33554432-/.test(entry.range) });
    assert.equal((await loadError(page, CPU)).code, 'http-status');
    const [kept] = await page.evaluate(() => lamplight.models.list());
    assert.equal(kept.bytesStored, 2 * PART_BYTES);
    server.clearFaults();
    server.clearLog();
    await recovers(page, CPU, base, { warnings: ['integrity'] });
    assert.ok(ranges().some((range) => range.startsWith('bytes=0-')), 'the old parts were kept');
  });

  test('a full disk: the model is used without being kept, and a warning says so; a download fails', async () => {
    // A profile of its own: Chromium counts what was just deleted for a while.
    const { browser: fresh, page: small, close } = await start({ server });
    try {
      const session = await fresh.context.newCDPSession(small);
      await session.send('Storage.overrideQuotaForOrigin', { origin: server.origin, quotaSize: 40e6 });
      // After that: what an open database had room for is remembered for a while.
      await chooseStore(small, store);
      // How many parts stay is the browser's to say.
      const { info } = await load(small, CPU);
      assert.deepEqual(info.warnings.map(({ code }) => code), ['quota-exceeded']);
      assert.equal(info.load.cached, false);
      assert.equal(await says(small, { tokens: 8 }), base.text);
      const { workers, locks, memory } = base.held;
      await assertLedger(small, { workers, locks, memory });
      const code = await small.evaluate((model) => lamplight.models.download(model).then(() => 'no error', ({ code }) => code), CPU.model);
      assert.equal(code, 'quota-exceeded', 'a download that nothing is kept of is none');
      // There is room again.
      await session.send('Storage.overrideQuotaForOrigin', { origin: server.origin });
      await recovers(small, CPU, base);
    } finally {
      await close();
    }
  });

  test('no storage at all: the same', async () => {
    await forget(page);
    // The worker's IndexedDB is taken away by a worker of the test's own, which then is the package's.
    const { info } = await recovers(page, { ...CPU, workerUrl: '/no-storage.mjs' }, base, { warnings: ['storage'], stored: NOTHING_STORED });
    assert.equal(info.load.cached, false);
    // Of several files it is said once, too.
    const split = await load(page, { ...CPU, model: '/golden/split/model-00001-of-00004.gguf', workerUrl: '/no-storage.mjs' });
    assert.deepEqual(split.warnings, ['storage']);
  });

  test('cache: false leaves no trace', async () => {
    await forget(page);
    const { info } = await recovers(page, { ...CPU, cache: false }, base, { stored: NOTHING_STORED });
    assert.equal(info.load.cached, false);
  });

  test('answers that contradict the request are refused', async () => {
    const wrong = [
      [{ headers: { 'Content-Range': `bytes 5-2097156/${MODEL_BYTES}` } }, /asked for/],
      [{
        status: 206, body: Buffer.alloc(3 << 20),
        headers: { 'Content-Type': 'application/octet-stream', 'Content-Range': `bytes 0-2097151/${MODEL_BYTES}` },
      }, /more bytes than it announced/],
    ];
    for (const [fault, message] of wrong) {
      await forget(page);
      server.fault(MODEL_PATH, fault);
      const error = await loadError(page, CPU);
      server.clearFaults();
      assert.equal(error.code, 'integrity', error.message);
      assert.match(error.message, message);
      await assertLedger(page, NOTHING_HELD);
    }
  });

  test('a server that fails now and then is asked again', async () => {
    await forget(page);
    server.clearLog();
    server.fault(MODEL_PATH, { status: 503, times: 2, headers: { 'Retry-After': '0' } });
    server.fault(MODEL_PATH, { status: 500, times: 1, when: (entry) => /=33554432-/.test(entry.range) });
    await recovers(page, CPU, base);
    assert.deepEqual(server.requests(MODEL_PATH).map((entry) => entry.status).filter((status) => status !== 206).sort(), [500, 503, 503]);
  });
});
