// Models by their manifest: every part is checked, an update fetches what changed, and the release before can be gone back to.
import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import {
  MODEL_BYTES, MODEL_FILE, PARIS, PART_BYTES, ROOT, around, assertLedger, assertNoProblems, baseline, forget, load, loadError, recovers, says, start,
} from './harness.mjs';

const MANIFEST = '/release/model.manifest.json';
const FILE = '/release/smollm2.gguf';
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const first = fs.readFileSync(MODEL_FILE);
/** The same model with one bit of one weight in part 3 changed, as a fine-tune changes tensors. */
const second = Buffer.from(first);
second[3 * PART_BYTES + 5000] ^= 1;

/** As `lamplight manifest` writes it (tests/cli.rs holds that); this model's last tensor ends with its file. */
function manifestOf(bytes, version) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += PART_BYTES) parts.push(sha256(bytes.subarray(at, at + PART_BYTES)));
  const file = { name: 'smollm2.gguf', bytes: bytes.length, dataEnd: bytes.length, sha256: sha256(bytes), parts };
  return Buffer.from(JSON.stringify({
    lamplight: 1, name: 'small', version, runtime: '0.1.0', partBytes: PART_BYTES, settings: { contextLength: 512 }, files: [file],
  }));
}
const [FIRST, SECOND] = [manifestOf(first, '1'), manifestOf(second, '2')];

describe('manifests', () => {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const KEY = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32).toString('base64');
  const files = { [MANIFEST]: FIRST, [FILE]: first };
  const options = (more) => ({ model: { manifest: MANIFEST, ...more }, backend: 'cpu' });
  let server, page, base;
  // The files are looked up at each request: changing the table is publishing.
  around({ table: files }, async (started) => {
    ({ server, page } = started);
    base = await baseline(page, options());
    await forget(page);
    server.clearLog();
  });
  const publish = (manifest, bytes) => Object.assign(files, { [MANIFEST]: manifest, ...(bytes && { [FILE]: bytes }) });
  const versions = () => page.evaluate(async () => (await lamplight.models.list()).map(({ key }) => key.split('@')[1]).sort());
  const ranges = () => server.requests(FILE).map((entry) => entry.range);
  const range = (part) => `bytes=${part * PART_BYTES}-${Math.min((part + 1) * PART_BYTES, MODEL_BYTES) - 1}`;
  const stored = () => page.evaluate(() => new Promise((resolve, reject) => {
    const open = indexedDB.open('lamplight');
    open.onerror = reject;
    open.onsuccess = () => {
      const request = open.result.transaction('partInfo').objectStore('partInfo').getAllKeys();
      request.onsuccess = () => { open.result.close(); resolve(request.result); };
    };
  }));

  test('a part that was damaged on its way is fetched once more; one that stays so is refused by name', async () => {
    server.fault(FILE, { flipByteAt: 2 * PART_BYTES + 77, times: 1, when: (entry) => entry.range === range(2) });
    const { info } = await recovers(page, options(), base, { warnings: ['integrity'] });
    assert.equal(ranges().filter((asked) => asked === range(2)).length, 2);
    assert.equal(info.contextLength, 512, 'the settings of the manifest are used');
    await forget(page);
    server.fault(FILE, { flipByteAt: 2 * PART_BYTES + 77 });
    const error = await loadError(page, options());
    server.clearFaults();
    assert.equal(error.code, 'integrity');
    assert.match(error.message, /part 2 /);
    assert.deepEqual(error.warnings, ['integrity']);
    await assertLedger(page, { workers: 1, locks: [], memory: null });
  });

  test('a header that was damaged on its way is read again, all of it', async () => {
    // So small that the header's first read is the whole file.
    const bytes = fs.readFileSync(path.join(ROOT, 'tests/golden/llama32/model.gguf'));
    const [small, tiny] = ['/release/tiny.gguf', '/release/tiny.json'];
    Object.assign(files, { [small]: bytes, [tiny]: Buffer.from(String(manifestOf(bytes, '1')).replace('smollm2.gguf', 'tiny.gguf').replace('512', '64')) });
    server.fault(small, { flipByteAt: bytes.length - 40, times: 1 });
    const { info } = await load(page, { model: { manifest: tiny }, backend: 'cpu' });
    assert.ok(info.warnings.length > 0 && info.warnings.every(({ code }) => code === 'integrity'), JSON.stringify(info.warnings));
    assert.ok(server.requests(small).every(({ status }) => status === 206), JSON.stringify(server.requests(small)));
    await forget(page);
  });

  test('an update fetches the part that changed and no other', async () => {
    await load(page, options());
    publish(SECOND, second);
    assert.equal(await page.evaluate((model) => lamplight.models.checkUpdate(model), options().model), '2');
    const before = await stored();
    const fits = await page.evaluate((options) => lamplight.fit(options), options());
    assert.equal(fits.downloadBytes, PART_BYTES, JSON.stringify(fits));
    assert.deepEqual(await stored(), before, 'a look at a model leaves traces of it');
    server.clearLog();
    const { info } = await load(page, options());
    assert.deepEqual(ranges(), [range(3)]);
    assert.deepEqual(info.warnings, []);
    assert.equal(await says(page), PARIS);
    assert.deepEqual(await versions(), ['1', '2']);
    assert.equal(await page.evaluate((model) => lamplight.models.checkUpdate(model), options().model), undefined);
  });

  test('going back asks for nothing, and lasts until there is another release', async () => {
    assert.equal(await page.evaluate((model) => lamplight.models.rollback(model), options().model), '1');
    server.clearLog();
    const { info } = await load(page, options());
    assert.equal(info.load.fromCache, true);
    assert.deepEqual(ranges(), []);
    assert.equal(await says(page), PARIS);
    const again = await page.evaluate((model) => lamplight.models.rollback(model).catch(({ code }) => code), options().model);
    assert.equal(again, 'invalid-request');
    publish(manifestOf(second, '3'));
    await load(page, options());
    // The one before the last two goes behind the load's back.
    let left;
    for (let tries = 0; tries < 50 && left?.length !== 2; tries += 1) left = await versions();
    assert.deepEqual(left, ['1', '3']);
  });

  test('where there is no room for an update, the release before is not what makes it', async () => {
    publish(FIRST, first);
    const fresh = await start({ server });
    try {
      const small = fresh.page;
      const session = await fresh.browser.context.newCDPSession(small);
      await session.send('Storage.overrideQuotaForOrigin', { origin: server.origin, quotaSize: MODEL_BYTES + 9e6 });
      // What the first load measures its storage with may be given back too late for its last part.
      for (let tries = 0, cached = false; !cached; tries += 1) {
        assert.ok(tries < 5, 'there is room for one release');
        cached = (await load(small, options())).info.load.cached;
      }
      publish(SECOND, second);
      assert.deepEqual((await load(small, { ...options(), evict: true })).warnings, ['quota-exceeded']);
      await small.evaluate((model) => lamplight.models.rollback(model), options().model);
      assert.equal((await load(small, options())).info.load.fromCache, true);
    } finally {
      await fresh.close();
      publish(manifestOf(second, '3'), second);
    }
  });

  test('a release that does not load leaves the one before in use', async () => {
    const broken = Buffer.from(String(manifestOf(second, '4')).replace(/"parts":\["[0-9a-f]{4}/, '"parts":["0000'));
    publish(broken);
    const { version, codes } = await page.evaluate(async (options) => {
      await globalThis.engine?.dispose();
      const codes = [];
      globalThis.engine = await lamplight.createEngine({ ...options, onWarning: ({ code }) => codes.push(code) });
      return { version: JSON.parse(localStorage.getItem(Object.keys(localStorage).find((key) => key.includes('manifest')))).active.version, codes };
    }, options());
    assert.equal(version, '3');
    assert.ok(codes.every((code) => code === 'integrity') && codes.length > 0, String(codes));
    assert.equal(await says(page), PARIS);
  });

  test('an update comes in the background while the release before works, which stays until the new one has loaded', async () => {
    await forget(page);
    publish(FIRST, first);
    await load(page, options());
    const update = () => page.evaluate((model) => lamplight.models.update(model), options().model);
    assert.equal(await update(), undefined);
    publish(SECOND, second);
    server.clearLog();
    const [ready, text] = await Promise.all([update(), says(page)]);
    assert.deepEqual([ready, text], ['2', PARIS]);
    assert.deepEqual(ranges(), [range(3)]);
    const active = () => page.evaluate(() => JSON.parse(localStorage.getItem(Object.keys(localStorage).find((key) => key.includes('manifest')))).active.version);
    assert.deepEqual([await active(), await versions()], ['1', ['1', '2']]);
    server.clearLog();
    assert.equal(await update(), '2', 'a second look finds it ready');
    const { info } = await load(page, options());
    assert.equal(info.load.fromCache, true);
    assert.deepEqual([ranges(), await active(), await says(page)], [[], '2', PARIS]);
    // One that is broken is not ready, and changes nothing.
    publish(Buffer.from(String(manifestOf(first, '3')).replace(/"parts":\["[0-9a-f]{4}/, '"parts":["0000')), first);
    assert.equal(await page.evaluate((model) => lamplight.models.update(model).catch(({ code }) => code), options().model), 'integrity');
    publish(SECOND, second);
    assert.equal((await load(page, options())).info.load.fromCache, true);
    assert.deepEqual([await active(), await says(page)], ['2', PARIS]);
  });

  test('without a network, what loaded last is used', async () => {
    server.setOnline(false, '/release/');
    const { info } = await load(page, options());
    server.setOnline(true);
    assert.equal(info.load.fromCache, true);
    assert.equal(await says(page), PARIS);
  });

  test('a manifest must be signed by the key that the page names', async () => {
    await forget(page);
    publish(FIRST, first);
    files[`${MANIFEST}.sig`] = Buffer.from(sign(null, FIRST, privateKey).toString('base64'));
    await load(page, options({ publicKey: KEY }));
    assert.equal(await says(page), PARIS);
    publish(SECOND);
    const error = await loadError(page, options({ publicKey: KEY }));
    assert.equal(error.code, 'integrity', error.message);
    assert.match(error.message, /signature/);
  });

  test('of two channels an installation keeps to one', async () => {
    await forget(page);
    files['/release/canary.json'] = SECOND;
    publish(FIRST, second);
    const channels = (percent) => ({ manifest: { stable: MANIFEST, canary: '/release/canary.json', percent } });
    const asked = () => [MANIFEST, '/release/canary.json'].map((path) => server.requests(path).length > 0);
    for (const [percent, expected] of [[100, [false, true]], [0, [true, false]]]) {
      server.clearLog();
      await page.evaluate((model) => lamplight.models.checkUpdate(model), channels(percent));
      assert.deepEqual(asked(), expected);
    }
    const lot = await page.evaluate(() => Number(localStorage.getItem('lamplight:cohort')));
    assert.ok(lot >= 0 && lot < 100);
    server.clearLog();
    for (const percent of [lot + 0.001, lot + 0.001, lot]) await page.evaluate((model) => lamplight.models.checkUpdate(model), channels(percent));
    assert.deepEqual([MANIFEST, '/release/canary.json'].map((path) => server.requests(path).length), [1, 2]);
  });

  test('what is no manifest, or of a later release, is said so', async () => {
    await forget(page);
    const wrong = [
      ['not json', 'malformed'], ['{}', 'malformed'], ['{"lamplight":2}', 'unsupported-version'],
      [String(FIRST).replace('"runtime":"0.1.0"', '"runtime":"99.0.0"'), 'unsupported-version'],
      [String(FIRST).replace('smollm2.gguf', '../x.gguf'), 'malformed'], [String(FIRST).replace(/"parts":\["\w+",/, '"parts":['), 'malformed'],
    ];
    for (const [text, code] of wrong) {
      publish(Buffer.from(text));
      assert.equal((await loadError(page, options())).code, code, text.slice(0, 40));
    }
    delete files[MANIFEST];
    assert.equal((await loadError(page, options())).code, 'http-status');
    assertNoProblems(page);
  });
});
