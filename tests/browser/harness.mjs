// What the browser tests share: where things lie, how each browser set-up is launched, and the page that holds the package.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { chromium } from 'playwright-core';
import { startServer } from './server.mjs';

export const ROOT = path.resolve(import.meta.dirname, '../..');
const TOOLS = process.env.LAMPLIGHT_TOOLS ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache'), 'lamplight');
const LAVAPIPE_DIR = process.env.LAVAPIPE_DIR ?? path.join(TOOLS, 'chromium-lavapipe');

/** The real model (fetched by scripts/model.sh) and the URL path it is served at. */
export const MODEL_FILE = process.env.LAMPLIGHT_MODEL ?? path.join(ROOT, 'models', 'SmolLM2-135M-Instruct.Q4_1.gguf');
export const MODEL_PATH = '/models/smollm2.gguf';
export const MODEL_BYTES = 98_362_432;
export const PART_BYTES = 16 * 1024 * 1024;
/** What `createEngine` is asked for where only the CPU path is meant. */
export const CPU = { model: MODEL_PATH, backend: 'cpu', threads: 1 };

const BASE_ARGS = [
  '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-dev-shm-usage',
];
/** Browser set-ups: `lavapipe` has shader-f16 and subgroups, `swiftshader` neither f16 nor speed, `none` no adapter. */
const GPU_ARGS = {
  none: ['--disable-gpu'],
  swiftshader: ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'],
  lavapipe: ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--use-angle=vulkan'],
};

/** Launches Chromium with its own profile (or the one given, to come back to a cache). `close()` ends it and removes a profile it made. */
export async function launch({ gpu = 'none', profile } = {}) {
  const lavapipe = gpu === 'lavapipe';
  const executablePath = lavapipe
    ? path.join(LAVAPIPE_DIR, 'browser', 'chromium')
    : process.env.CHROMIUM_BIN || '/usr/bin/chromium';
  const dir = profile ?? fs.mkdtempSync(path.join(os.tmpdir(), 'lamplight-profile-'));
  const env = { ...process.env };
  if (lavapipe) env.VK_DRIVER_FILES = path.join(LAVAPIPE_DIR, 'lvp.json');
  const context = await chromium.launchPersistentContext(dir, {
    executablePath, env, headless: true, args: [...BASE_ARGS, ...GPU_ARGS[gpu]], timeout: 120_000,
  });
  context.setDefaultTimeout(300_000);
  return {
    context,
    profile: dir,
    /** A private window's context, of a browser of its own; close it. */
    newPrivate: async () => {
      const browser = await chromium.launch({ executablePath, env, headless: true, args: [...BASE_ARGS, ...GPU_ARGS[gpu]], timeout: 120_000 });
      const inside = await browser.newContext();
      inside.once('close', () => browser.close());
      return inside;
    },
    async close() {
      await context.close();
      if (!profile) fs.rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Headers that make a page cross-origin isolated. */
export const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Cross-Origin-Resource-Policy': 'same-origin',
};

/** A server with the test page at /, the package under /pkg/ and the real model; `table` is a list of files that may change. */
export function startPackageServer({ headers, files = {}, table } = {}) {
  return startServer({
    mounts: {
      '/': path.join(ROOT, 'tests/browser/pages'),
      '/pkg/': path.join(ROOT, 'pkg/dist'),
      '/golden/': path.join(ROOT, 'tests/golden'),
    },
    files: Object.assign(table ?? {}, { [MODEL_PATH]: MODEL_FILE, ...files }),
    headers,
  });
}

/**
 * Starts a server, a browser and the test page in it; `close()` ends what was started, and so does a start that fails. Of the
 * options `gpu` and `profile` are `launch`'s, `server` is one that runs already, and the others are `startPackageServer`'s.
 */
export async function start({ gpu, profile, server, ...served } = {}) {
  const started = {
    async close() {
      await started.browser?.close();
      if (!server) await started.server?.close();
    },
  };
  try {
    started.server = server ?? await startPackageServer(served);
    started.browser = await launch({ gpu, profile });
    started.page = await openPage(started.browser, started.server);
    return started;
  } catch (error) {
    await started.close();
    throw error;
  }
}

/** `start` before the tests of a suite, whose `begun` receives server, browser and page, and `close` after them. */
export function around(options, begun) {
  let close;
  before(async () => {
    const started = await start(options);
    ({ close } = started);
    await begun(started);
  });
  after(() => close?.());
}

/**
 * Opens the test page, whose `window.lamplight` is the package's module, or another page that is there when `until` holds. Errors of the page are collected in `page.problems`:
 * uncaught exceptions, security policy violations, and console errors (failed requests that a test asked for excepted).
 */
export async function openPage(browser, server, { url = '/', until = () => globalThis.ready === true } = {}) {
  const page = await browser.context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(`exception: ${error.message}`));
  page.on('console', (message) => {
    if (process.env.LAMPLIGHT_VERBOSE) console.log(`[page ${message.type()}] ${message.text()}`);
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) page.problems.push(`console: ${message.text()}`);
  });
  await page.goto(server.origin + url);
  await page.waitForFunction(until);
  return page;
}

/** Asserts that nothing went wrong on the page behind the test's back. */
export function assertNoProblems(page) {
  assert.deepEqual(page.problems, []);
}

/**
 * Loads an engine in the page as `window.engine`; resolves with its info, the progress values, the codes of the warnings that the
 * page heard, and the seconds it took. `options` is what `createEngine` takes, except that functions and signals stay out (they
 * do not cross into the page), and that one worker is the default: how many are worth it depends on what else the machine does.
 */
export function load(page, options) {
  return page.evaluate(async (engineOptions) => {
    await globalThis.engine?.dispose();
    globalThis.engine = undefined;
    const progress = [];
    const warnings = [];
    const started = performance.now();
    globalThis.engine = await globalThis.lamplight.createEngine({
      threads: 1, ...engineOptions, onProgress: (value) => progress.push({ ...value }), onWarning: ({ code }) => warnings.push(code),
    });
    return { info: globalThis.engine.info, progress, warnings, seconds: (performance.now() - started) / 1000 };
  }, options);
}

/** Begins a load whose progress in bytes is the page's `seen`, and waits until it is past `bytes`. */
export async function begin(page, bytes) {
  await page.evaluate((options) => {
    globalThis.seen = 0;
    globalThis.heard = [];
    globalThis.loading = globalThis.lamplight.createEngine({
      ...options, onProgress: ({ loadedBytes }) => { globalThis.seen = loadedBytes; }, onWarning: ({ code }) => globalThis.heard.push(code),
    });
  }, CPU);
  await page.waitForFunction((least) => globalThis.seen > least, bytes);
}

/** Waits for the load that `begin` began; resolves with its info and the codes of its warnings. */
export function end(page) {
  return page.evaluate(async () => {
    globalThis.engine = await globalThis.loading;
    return { info: globalThis.engine.info, warnings: globalThis.heard };
  });
}

/** Runs `createEngine` expecting it to fail; resolves with the error's fields and the codes of the warnings before it. */
export function loadError(page, options) {
  return page.evaluate(async (engineOptions) => {
    const warnings = [];
    try {
      const engine = await globalThis.lamplight.createEngine({ ...engineOptions, onWarning: ({ code }) => warnings.push(code) });
      await engine.dispose();
      return { name: null, message: 'no error', warnings };
    } catch ({ name, code, field, message }) {
      return { name, code, field, message, warnings };
    }
  }, options);
}

/** What the engine of the page continues a prompt with when it takes the best token each time. */
export function says(page, { prompt = 'The capital of France is', tokens = 2 } = {}) {
  return page.evaluate(
    async (request) => (await globalThis.engine.completions.create(request)).choices[0].text,
    { prompt, max_tokens: tokens, temperature: 0 },
  );
}

/** What `says` gives for the real model when all is well. */
export const PARIS = ' Paris.';

/** Logits after a few tokens that every model has. */
export function logits(page) {
  return page.evaluate(async () => Array.from((await globalThis.engine.forward(new Uint32Array([5, 6, 7, 8]))).logits));
}

/** Rows of a store in which nothing is kept. */
export const NOTHING_STORED = { models: [], parts: 0, blobs: 0, unreadable: 0, unused: 0 };

/** The ledger of a page without an engine whose origin keeps nothing. */
export const NOTHING_HELD = { workers: 1, locks: [], stored: NOTHING_STORED, memory: null };

/**
 * What is held on behalf of a page: workers of the browser, locks and stored rows of the origin, the engine's memory. It asks for
 * the stored models, so that the worker which lists them is always among the workers.
 */
export async function ledger(page) {
  const [locks, stored, memory] = await page.evaluate(async () => {
    // Before anything opens the storage, which sweeps files without an owner under a lock.
    const { held, pending } = await navigator.locks.query();
    // Nothing can be listed where the database is a newer release's.
    const listed = await globalThis.lamplight.models.list().catch(() => []);
    const done = (request) => new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const db = await done(indexedDB.open('lamplight'));
    // In one transaction: a load may still be writing.
    const both = db.transaction(['partInfo', 'blobs']);
    const stores = [both.objectStore('partInfo').getAll(), both.objectStore('blobs').getAllKeys(), both.objectStore('blobs').getAll()];
    const [infos, blobs, places] = await Promise.all(stores.map(done));
    db.close();
    const hashes = new Set(infos.map(({ sha256 }) => sha256));
    const files = [];
    const directory = await (await navigator.storage.getDirectory()).getDirectoryHandle('lamplight', { create: true });
    for await (const name of directory.keys()) files.push(name);
    const inFiles = blobs.filter((_, index) => places[index] === 'opfs');
    return [
      [...held, ...pending].map(({ name }) => name.replace(/^(lamplight:member):.*/, '$1')).sort(),
      {
        models: listed.map(({ key, complete }) => `${key}${complete ? '' : ', in part'}`).sort(), parts: infos.length, blobs: blobs.length,
        unreadable: [...hashes].filter((hash) => !blobs.includes(hash)).length + inFiles.filter((hash) => !files.includes(hash)).length,
        unused: blobs.filter((hash) => !hashes.has(hash)).length + files.filter((name) => !inFiles.includes(name)).length,
      },
      globalThis.engine?.info.memory ?? null,
    ];
  });
  const session = await page.context().newCDPSession(page);
  const { targetInfos } = await session.send('Target.getTargets', { filter: [{ type: 'worker' }, { exclude: true }] });
  await session.detach();
  return { workers: targetInfos.length, locks, stored, memory };
}

/**
 * Asserts that what is held becomes `expected` (the keys that it has), and that no part lacks its bytes nor bytes their part:
 * workers end, locks go and rows are swept a moment after they are given up.
 */
export async function assertLedger(page, expected) {
  const wanted = { unreadable: 0, unused: 0, ...expected };
  let found;
  for (let tries = 0; tries < 200; tries += 1) {
    const now = await ledger(page);
    found = Object.fromEntries(Object.keys(wanted).map((key) => [key, { ...now.stored, ...now }[key]]));
    // wasm memory only grows; parts that arrived together may have taken one more at a time.
    if (found.memory && found.memory.wasmBytes <= expected.memory?.wasmBytes + PART_BYTES) found.memory.wasmBytes = expected.memory.wasmBytes;
    if (isDeepStrictEqual(found, wanted)) return;
    await page.waitForTimeout(25);
  }
  assert.deepEqual(found, wanted);
}

/** Text and ledger of a load without a fault, to which `assertBaseline` holds the loads with one. */
export async function baseline(page, options) {
  await load(page, options);
  const text = await says(page, { tokens: 8 });
  // Files without an owner are swept once, when storage is opened: that is over soon.
  await page.waitForFunction(async () => {
    const { held, pending } = await navigator.locks.query();
    return ![...held, ...pending].some(({ name }) => name === 'lamplight:files');
  });
  return { text, held: await ledger(page) };
}

/** Asserts that a fault left nothing behind: the text, what is held (`changed` where it is meant to differ), and a quiet page. */
export async function assertBaseline(page, { text, held }, changed = {}) {
  assert.equal(await says(page, { tokens: 8 }), text);
  await assertLedger(page, { ...held, ...changed });
  assertNoProblems(page);
}

/** Loads through a fault: the page hears of `warnings` and no other, and all is as in `base`. Resolves as `load` does. */
export async function recovers(page, options, base, { warnings = [], ...changed } = {}) {
  const loaded = await load(page, options);
  assert.deepEqual(loaded.warnings, warnings);
  assert.deepEqual(loaded.info.warnings.map(({ code }) => code), warnings);
  await assertBaseline(page, base, changed);
  return loaded;
}

/** The stores that parts can be in. */
export const STORES = ['indexeddb', 'opfs', 'arrays'];

/** Has new parts kept in `store`, as if that had been found to be the fastest here. */
export async function chooseStore(page, store) {
  // The worker that is asked makes the database.
  await page.evaluate(() => globalThis.lamplight.models.list());
  await withDatabase(page, (db, done, choice) => done(db.transaction('settings', 'readwrite').objectStore('settings').put({ store: choice }, 'parts')), store);
}

/** Damages the bytes of part `index` of the stored model `key` (the first), in whichever store they are; `how` is flip, shorten or lose. */
export function spoil(page, index, how, key) {
  return withDatabase(page, async (db, done, { index, how, key }) => {
    key ??= (await done(db.transaction('models').objectStore('models').getAllKeys()))[0];
    const { sha256 } = await done(db.transaction('partInfo').objectStore('partInfo').get([key, index]));
    const reference = await done(db.transaction('blobs').objectStore('blobs').get(sha256));
    const directory = await (await navigator.storage.getDirectory()).getDirectoryHandle('lamplight', { create: true });
    const stores = {
      string: {
        read: async () => (await (await directory.getFileHandle(sha256)).getFile()).arrayBuffer(),
        write: async (bytes) => {
          const file = await (await directory.getFileHandle(sha256)).createWritable();
          await file.write(bytes);
          await file.close();
        },
        remove: () => directory.removeEntry(sha256),
      },
      object: {
        read: () => (reference instanceof Blob ? reference.arrayBuffer() : reference),
        write: (bytes) => done(db.transaction('blobs', 'readwrite').objectStore('blobs').put(reference instanceof Blob ? new Blob([bytes]) : bytes, sha256)),
        remove: () => done(db.transaction('blobs', 'readwrite').objectStore('blobs').delete(sha256)),
      },
    };
    const { read, write, remove } = stores[typeof reference];
    const bytes = new Uint8Array(await read());
    if (how === 'flip') {
      bytes[bytes.length >> 1] ^= 0xff;
      await write(bytes);
    } else if (how === 'shorten') {
      await write(bytes.slice(1));
    } else {
      await remove();
    }
  }, { index, how, key });
}

/** Ends the page's engine and deletes all that this origin keeps, and asserts that nothing is held then. */
export async function forget(page) {
  await page.evaluate(async () => {
    await globalThis.engine?.dispose();
    globalThis.engine = undefined;
    for (const { key } of await globalThis.lamplight.models.list()) await globalThis.lamplight.models.delete(key);
    localStorage.clear();
  });
  await assertLedger(page, NOTHING_HELD);
}

/**
 * Loads the engine from the files at `urls`, as a user's choice of files: one, an array, or an input's `list`; resolves with its
 * info or the error's fields.
 */
export function loadFiles(page, urls, options, list = false) {
  return page.evaluate(async ([addresses, engineOptions, asList]) => {
    await globalThis.engine?.dispose();
    globalThis.engine = undefined;
    const files = await Promise.all(addresses.map(async (url) => new File([await (await fetch(url)).blob()], url.split('/').pop())));
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(file);
    const several = asList ? transfer.files : files;
    try {
      globalThis.engine = await globalThis.lamplight.createEngine({ ...engineOptions, model: files.length === 1 ? files[0] : several });
      return { info: globalThis.engine.info };
    } catch ({ code, field, message }) {
      return { code, field, message };
    }
  }, [urls, options, list]);
}

/** Runs `use(db, done, argument)` in the page on the package's opened database; `done` makes a request a promise. */
export function withDatabase(page, use, argument) {
  return page.evaluate(async ([source, given]) => {
    const done = (request) => new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const db = await done(indexedDB.open('lamplight'));
    try {
      return await (0, eval)(`(${source})`)(db, done, given);
    } finally {
      db.close();
    }
  }, [use.toString(), argument]);
}

/** A file of the reference data beside the clone, or null when the clone stands by itself. */
export function sharedOracle(file) {
  const full = path.resolve(ROOT, '../shared/oracle', file);
  return fs.existsSync(full) ? full : null;
}
