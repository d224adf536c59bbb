// The models in this browser's storage: facts, check, pin, archive, room for another, and databases of other releases.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import {
  CPU, MODEL_BYTES, MODEL_FILE, MODEL_PATH, PARIS, PART_BYTES, STORES, around, assertBaseline, assertLedger, baseline, chooseStore, load, openPage,
  recovers, says, spoil, start, withDatabase,
} from './harness.mjs';

const COPY_PATH = '/models/copy.gguf';
const N_PARTS = Math.ceil(MODEL_BYTES / PART_BYTES);

for (const store of STORES) describe(`stored models in ${store}`, () => {
  let server, browser, page, key, base;
  around({ files: { [COPY_PATH]: MODEL_FILE } }, async (started) => {
    ({ server, browser, page } = started);
    key = server.origin + MODEL_PATH;
    await chooseStore(page, store);
  });
  const list = () => page.evaluate(() => lamplight.models.list());
  const blobs = () => withDatabase(page, async (db, done) => (await done(db.transaction('blobs').objectStore('blobs').getAllKeys())).length);
  const errorOf = (call, ...args) => page.evaluate(async ([call, args]) => {
    try {
      await lamplight.models[call](...args);
      return { code: 'no error' };
    } catch ({ code, field, message }) {
      return { code, field, message };
    }
  }, [call, args]);

  test('the list tells what there is of a model', async () => {
    base = await baseline(page, CPU);
    const [model, ...others] = await list();
    assert.deepEqual(others, []);
    assert.equal(model.key, key);
    assert.equal(model.url, key);
    assert.ok(model.name.length > 0);
    assert.deepEqual([model.bytesStored, model.bytesTotal], [MODEL_BYTES, MODEL_BYTES]);
    assert.deepEqual([model.complete, model.pinned, model.clean], [true, false, true]);
    assert.ok(model.lastUsed > 1.6e12);
  });

  test('a pin lasts over loads, until it is taken away', async () => {
    await page.evaluate((key) => lamplight.models.pin(key), key);
    await load(page, CPU);
    assert.equal((await list())[0].pinned, true);
    await page.evaluate((key) => lamplight.models.pin(key, false), key);
    assert.equal((await list())[0].pinned, false);
    for (const call of ['pin', 'verify', 'export']) {
      assert.deepEqual((({ code, field }) => [code, field])(await errorOf(call, 'no such model')), ['invalid-request', 'key']);
    }
  });

  test('a check finds the parts that are bad; the next load fetches these alone', async () => {
    assert.deepEqual(await page.evaluate((key) => lamplight.models.verify(key), key), { parts: N_PARTS, bad: 0 });
    await spoil(page, 3, 'flip', key);
    assert.deepEqual(await page.evaluate((key) => lamplight.models.verify(key), key), { parts: N_PARTS, bad: 1 });
    assert.equal((await list())[0].complete, false);
    server.clearLog();
    await recovers(page, CPU, base);
    const { range } = server.requests(MODEL_PATH)[0];
    assert.equal(range, `bytes=${3 * PART_BYTES}-${4 * PART_BYTES - 1}`);
    assert.equal(server.requests(MODEL_PATH).length, 1);
  });

  test('what two models have in common is stored once, and stays until the last of them goes', async () => {
    await load(page, { ...CPU, model: COPY_PATH });
    assert.deepEqual((await list()).map((model) => model.bytesStored), [MODEL_BYTES, MODEL_BYTES]);
    assert.equal(await blobs(), N_PARTS);
    await page.evaluate((key) => lamplight.models.delete(key), server.origin + COPY_PATH);
    assert.equal(await blobs(), N_PARTS);
    assert.equal((await load(page, CPU)).info.load.fromCache, true);
  });

  test('an archive carries a model to another browser; a damaged one is refused whole', async () => {
    await page.evaluate(async (key) => {
      globalThis.archive = new Blob([await (await lamplight.models.export(key)).arrayBuffer()]);
      await engine.dispose();
      await lamplight.models.delete(key);
    }, key);
    assert.equal(await blobs(), 0, 'a deleted model leaves bytes behind');
    const codes = await page.evaluate(async () => {
      const bytes = new Uint8Array(await archive.arrayBuffer());
      bytes[bytes.length - 5] ^= 1;
      const codes = [];
      for (const bad of [bytes, bytes.slice(0, -1), bytes.slice(0, 10), new Uint8Array(100)]) {
        await lamplight.models.import(new Blob([bad])).catch(({ code }) => codes.push(code));
      }
      return codes;
    });
    assert.deepEqual(codes, ['integrity', 'truncated', 'not-a-model', 'not-a-model']);
    assert.deepEqual(await list(), []);
    assert.equal(await page.evaluate(() => lamplight.models.import(archive)), key);
    server.clearLog();
    const { info } = await load(page, CPU);
    assert.equal(info.load.fromCache, true);
    assert.deepEqual(server.requests(MODEL_PATH), []);
    assert.equal(await says(page), PARIS);
  });

  test('what a browser gives, and what it decided about keeping it, is told', async () => {
    const state = await page.evaluate(() => lamplight.models.storage());
    assert.ok(state.quotaBytes > state.usageBytes && state.usageBytes > 0, JSON.stringify(state));
    assert.equal(state.persisted, false);
    assert.equal(state.parts.store, store);
    const session = await browser.context.newCDPSession(page);
    for (const [setting, persisted] of [['denied', false], ['granted', true]]) {
      await session.send('Browser.setPermission', { permission: { name: 'persistent-storage' }, setting, origin: server.origin });
      assert.equal(await page.evaluate(() => lamplight.models.persist()), persisted);
      assert.equal((await page.evaluate(() => lamplight.models.storage())).persisted, persisted);
      await assertBaseline(page, base);
    }
  });

  test('an archive that claims more than it proves is refused, or found out by who knows better', async () => {
    const result = await page.evaluate(async ({ url, sha256 }) => {
      const magic = 'lamplight model 1\n';
      const bytes = new Uint8Array(await archive.arrayBuffer());
      const length = new DataView(bytes.buffer).getUint32(magic.length, true);
      const start = magic.length + 4;
      const description = JSON.parse(new TextDecoder().decode(bytes.subarray(start, start + length)));
      const pack = (record, parts, data) => {
        const text = new TextEncoder().encode(JSON.stringify([{ record, parts }]));
        const size = new DataView(new ArrayBuffer(4));
        size.setUint32(0, text.length, true);
        return new Blob([magic, size, text, data]);
      };
      const [{ record, parts }] = description;
      const data = bytes.slice(start + length);
      const last = parts.at(-1).len;
      const partial = await lamplight.models.import(pack(record, parts.slice(0, -1), data.subarray(0, data.length - last))).catch(({ code }) => code);
      // Another weight in the last part, sound by its own hash, and a record that says that the whole was compared.
      data[data.length - 5] ^= 1;
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data.subarray(data.length - last)));
      parts.at(-1).sha256 = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
      await engine.dispose();
      await lamplight.models.import(pack({ ...record, sha256 }, parts, data));
      const claimed = await lamplight.createEngine({ model: { url, sha256 }, backend: 'cpu' }).then(() => 'loaded', ({ code }) => code);
      return [partial, claimed];
    }, { url: MODEL_PATH, sha256: createHash('sha256').update(fs.readFileSync(MODEL_FILE)).digest('hex') });
    assert.deepEqual(result, ['malformed', 'integrity']);
    assert.deepEqual(await list(), []);
    await load(page, CPU);
  });

  test('a folder is kept as one model, and its pin with it', async () => {
    const model = '/golden/hf/cohere/';
    const kept = async () => (await list()).find((stored) => stored.key === server.origin + model);
    await load(page, { ...CPU, model });
    assert.deepEqual((({ complete, clean, pinned }) => [complete, clean, pinned])(await kept()), [true, true, false]);
    await page.evaluate((key) => lamplight.models.pin(key), server.origin + model);
    await load(page, { ...CPU, model });
    assert.equal((await kept()).pinned, true);
    await page.evaluate((key) => lamplight.models.delete(key), server.origin + model);
    await load(page, CPU);
  });

  test('a database of an older form is brought to the present one', async () => {
    await page.evaluate(async () => {
      await engine.dispose();
      await new Promise((resolve, reject) => Object.assign(indexedDB.deleteDatabase('lamplight'), { onsuccess: resolve, onerror: reject }));
      await new Promise((resolve, reject) => {
        const open = indexedDB.open('lamplight', 1);
        open.onupgradeneeded = () => ['models', 'partInfo', 'partData'].forEach((name) => open.result.createObjectStore(name));
        open.onsuccess = () => { open.result.close(); resolve(); };
        open.onerror = reject;
      });
    });
    const { info } = await load(page, CPU);
    assert.deepEqual(info.warnings, []);
    assert.equal(info.load.cached, true);
    assert.deepEqual(await withDatabase(page, (db) => [...db.objectStoreNames]), ['blobs', 'models', 'partInfo', 'settings']);
    assert.equal(await says(page), PARIS);
  });

  test('a tab that holds an older database is named, and does not hold up the load', async () => {
    await page.evaluate(async (key) => {
      await engine.dispose();
      await lamplight.models.delete(key);
    }, key);
    const other = await openPage(browser, server);
    await other.evaluate(() => new Promise((resolve, reject) => {
      const gone = indexedDB.deleteDatabase('lamplight');
      gone.onsuccess = () => {
        const open = indexedDB.open('lamplight', 1);
        open.onsuccess = () => { globalThis.held = open.result; resolve(); };
        open.onerror = reject;
      };
    }));
    const { info } = await load(page, CPU);
    assert.deepEqual(info.warnings.map((warning) => warning.code), ['storage']);
    assert.match(info.warnings[0].message, /another tab/);
    assert.equal(await says(page, { tokens: 8 }), base.text);
    await other.close();
    assert.equal((await recovers(page, CPU, base)).info.load.cached, true);
  });

  test('a database of a newer release is left alone, and said so', async () => {
    await page.evaluate(() => engine.dispose());
    await page.evaluate(() => new Promise((resolve, reject) => {
      const open = indexedDB.open('lamplight', 99);
      open.onsuccess = () => { open.result.close(); resolve(); };
      open.onerror = open.onblocked = reject;
    }));
    const { info } = await load(page, CPU);
    assert.deepEqual(info.warnings.map((warning) => warning.code), ['storage']);
    assert.match(info.warnings[0].message, /newer release/);
    assert.equal(await says(page, { tokens: 8 }), base.text);
    assert.equal(await blobs(), N_PARTS, 'the newer release lost its models');
    await assertBaseline(page, base, { stored: { ...base.held.stored, models: [] } });
    // With that release gone all is as ever.
    await page.evaluate(() => new Promise((resolve, reject) => Object.assign(indexedDB.deleteDatabase('lamplight'), { onsuccess: resolve, onerror: reject })));
    await recovers(page, CPU, base);
  });

  test('room for a model is made by removing the one used least recently, but no pinned one, and only if asked', async () => {
    // Two models that have no part in common.
    const other = fs.readFileSync(MODEL_FILE);
    for (let at = PART_BYTES - 64; at < other.length; at += PART_BYTES) other[at] ^= 1;
    other[other.length - 64] ^= 1;
    const { server: busy, browser: fresh, page: small, close } = await start({ files: { [COPY_PATH]: other } });
    try {
      const stored = () => small.evaluate(async () => (await lamplight.models.list()).map(({ url }) => new URL(url).pathname));
      // What Chromium enforces then is not what it estimates: the disk shows that it is full when it is.
      const session = await fresh.context.newCDPSession(small);
      await session.send('Storage.overrideQuotaForOrigin', { origin: busy.origin, quotaSize: 140e6 });
      await chooseStore(small, store);
      await load(small, CPU);
      const full = await load(small, { ...CPU, model: COPY_PATH });
      assert.deepEqual(full.info.warnings.map((warning) => warning.code), ['quota-exceeded']);
      assert.ok((await stored()).includes(MODEL_PATH), 'a model was removed without being asked');
      await small.evaluate((key) => lamplight.models.pin(key), busy.origin + MODEL_PATH);
      const pinned = await load(small, { ...CPU, model: COPY_PATH, evict: true });
      assert.equal(pinned.info.load.cached, false);
      await small.evaluate((key) => lamplight.models.pin(key, false), busy.origin + MODEL_PATH);
      const { info } = await load(small, { ...CPU, model: COPY_PATH, evict: true });
      assert.equal(info.load.cached, true, JSON.stringify(info.warnings));
      assert.deepEqual(await stored(), [COPY_PATH]);
      await assertLedger(small, { locks: base.held.locks, workers: base.held.workers, memory: base.held.memory });
    } finally {
      await close();
    }
  });
});
