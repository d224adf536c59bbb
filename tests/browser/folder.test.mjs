// Hugging Face folders through the package: by address, from this browser's storage, and as files that a user chose.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { ROOT, around, assertNoProblems, load, loadError, loadFiles, logits, spoil } from './harness.mjs';

/** Two shards and an index. */
const SHARDED = '/golden/hf/llama31/';
const OPTIONS = { backend: 'cpu', contextLength: 128 };

/** Where the model's files in the folder are. */
function urlsOf(folder) {
  const names = fs.readdirSync(path.join(ROOT, 'tests', folder)).filter((name) => !/^(golden|reference)/.test(name));
  return names.map((name) => folder + name);
}

describe('folders', () => {
  let server, page;
  around({}, (started) => { ({ server, page } = started); });

  test('a folder at an address, its configuration, and the files of it are the same model', async () => {
    const { info, progress } = await load(page, { ...OPTIONS, model: SHARDED, cache: false });
    assert.equal(info.model.architecture, 'llama');
    assert.equal(info.model.nVocab, 384);
    assert.equal(progress.at(-1).fraction, 1);
    const expected = await logits(page);
    assert.ok(expected.length === 384 && expected.every(Number.isFinite));
    await load(page, { ...OPTIONS, model: `${SHARDED}config.json`, cache: false });
    assert.deepEqual(await logits(page), expected);
    const urls = urlsOf(SHARDED);
    for (const list of [false, true]) {
      assert.equal((await loadFiles(page, urls, OPTIONS, list)).code, undefined);
      assert.deepEqual(await logits(page), expected);
    }
    // The folder itself, as a page keeps one or a user opens it.
    await page.evaluate(async ({ urls, options }) => {
      await engine.dispose();
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('model', { create: true });
      await folder.getDirectoryHandle('.git', { create: true });
      for (const url of urls) {
        const file = await (await folder.getFileHandle(url.split('/').pop(), { create: true })).createWritable();
        await file.write(await (await fetch(url)).blob());
        await file.close();
      }
      globalThis.engine = await lamplight.createEngine({ ...options, model: folder });
    }, { urls, options: OPTIONS });
    assert.deepEqual(await logits(page), expected);
    const lacking = urls.filter((url) => !url.includes('00002-of'));
    const missing = await loadFiles(page, lacking, OPTIONS);
    assert.deepEqual([missing.code, missing.field], ['not-a-model', 'model-00002-of-00002.safetensors']);
    assertNoProblems(page);
  });

  test('the shards are kept, and come out of storage the next time', async () => {
    const first = await load(page, { ...OPTIONS, model: SHARDED });
    assert.ok(first.info.load.networkBytes > 0);
    assert.equal(first.info.load.fromCache, false);
    const second = await load(page, { ...OPTIONS, model: SHARDED });
    assert.equal(second.info.load.fromCache, true);
    assert.equal(second.info.load.networkBytes, 0);
    // One model, though it has two shards and a tokenizer.
    const listed = await page.evaluate(() => lamplight.models.list());
    assert.deepEqual(listed.map(({ key, complete }) => [new URL(key).pathname, complete]), [[SHARDED, true]]);
    assertNoProblems(page);
  });

  test('the next visit needs no server: configuration and tokenizer are kept, too', async () => {
    await load(page, { ...OPTIONS, model: SHARDED });
    const expected = await logits(page);
    const ids = (text) => page.evaluate(async (input) => Array.from(await engine.tokenize(input)), text);
    const expectedIds = await ids('A lamp in the dark.');
    server.clearLog();
    server.setOnline(false, '/golden/');
    try {
      for (const model of [SHARDED, urlsOf(SHARDED)]) {
        const { info } = await load(page, { ...OPTIONS, model });
        assert.equal(info.load.fromCache, true);
        assert.equal(info.load.networkBytes, 0);
        assert.deepEqual(await logits(page), expected);
        assert.deepEqual(await ids('A lamp in the dark.'), expectedIds);
      }
    } finally {
      server.setOnline(true);
    }
    assert.deepEqual(server.log.filter(({ path: asked }) => asked.startsWith(SHARDED)), []);
    await page.evaluate(() => globalThis.engine.dispose());
    await page.evaluate(async () => lamplight.models.delete((await lamplight.models.list())[0].key));
    assert.deepEqual(await page.evaluate(() => lamplight.models.list()), []);
    assertNoProblems(page);
  });

  test('a folder that was only downloaded needs no server either', async () => {
    const found = await page.evaluate((model) => lamplight.models.download(model), SHARDED);
    assert.deepEqual([new URL(found.key).pathname, found.complete], [SHARDED, true]);
    server.clearLog();
    server.setOnline(false, '/golden/');
    try {
      const { info } = await load(page, { ...OPTIONS, model: SHARDED });
      assert.deepEqual([info.load.fromCache, info.load.key], [true, found.key]);
    } finally {
      server.setOnline(true);
    }
    assert.deepEqual(server.log.filter(({ path: asked }) => asked.startsWith(SHARDED)), []);
    await page.evaluate(async (key) => {
      await engine.dispose();
      await lamplight.models.delete(key);
    }, found.key);
  });

  test('the addresses of its files, in any order, are the same model', async () => {
    await load(page, { ...OPTIONS, model: SHARDED, cache: false });
    const expected = await logits(page);
    await load(page, { ...OPTIONS, model: urlsOf(SHARDED).reverse(), cache: false });
    assert.deepEqual(await logits(page), expected);
    const lacking = urlsOf(SHARDED).filter((url) => !url.includes('00002-of'));
    const error = await loadError(page, { ...OPTIONS, model: lacking, cache: false });
    assert.deepEqual([error.code, error.field], ['not-a-model', 'model-00002-of-00002.safetensors']);
    assertNoProblems(page);
  });

  test('damaged small files are fetched again', async () => {
    await load(page, { ...OPTIONS, model: SHARDED });
    const expected = await logits(page);
    await page.evaluate(() => engine.dispose());
    const [{ key }] = await page.evaluate(() => lamplight.models.list());
    await spoil(page, 0, 'flip', key);
    server.clearLog();
    await load(page, { ...OPTIONS, model: SHARDED });
    assert.deepEqual(await logits(page), expected);
    assert.ok(server.requests(`${SHARDED}config.json`).length > 0);
    assert.deepEqual(server.log.filter(({ path: asked }) => asked.endsWith('.safetensors')), []);
    assertNoProblems(page);
  });

  test('a folder without a model says what is missing', async () => {
    const error = await loadError(page, { ...OPTIONS, model: '/golden/quant/', cache: false });
    assert.deepEqual([error.code, error.field], ['not-a-model', 'config.json']);
  });
});
