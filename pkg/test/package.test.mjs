// What the package promises outside of a browser: it can be imported, says why it does not run, and keeps its lists.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

const root = new URL('../', import.meta.url);
const read = (path) => readFile(new URL(path, root), 'utf8');

test('importing touches no browser global, and the calls say that there is no browser', async () => {
  const touched = [];
  for (const name of ['Worker', 'indexedDB', 'document', 'window', 'self']) {
    const get = () => { touched.push(name); return undefined; };
    Object.defineProperty(globalThis, name, { get, configurable: true });
  }
  const lamplight = await import('../dist/index.js');
  assert.deepEqual(touched, []);
  for (const name of ['Worker', 'indexedDB', 'document', 'window', 'self']) delete globalThis[name];

  const expected = { name: 'LamplightError', code: 'worker-failed' };
  await assert.rejects(lamplight.createEngine({ model: 'https://localhost/model.gguf' }), expected);
  await assert.rejects(lamplight.models.list(), expected);
  const found = await lamplight.capabilities();
  assert.equal(found.webgpu, false);
  assert.equal(typeof found.webgpuReason, 'string');
  assert.equal(found.simd, true);
});

test('the error codes of TypeScript and Rust are the same, in the same order', async () => {
  const rust = (await read('../src/error.rs')).match(/error_codes! \{([\s\S]*?)\n\}/g).at(-1);
  const rustCodes = [...rust.matchAll(/^\s+\w+ = "([a-z-]+)",$/gm)].map((m) => m[1]);
  const union = (await read('src/types.ts')).match(/type LamplightErrorCode =([^;]*);/)[1];
  const tsCodes = [...union.matchAll(/'([a-z-]+)'/g)].map((m) => m[1]);
  assert.ok(rustCodes.length > 20);
  assert.deepEqual(tsCodes, rustCodes);
});

test('page and core speak the same version of the protocol', async () => {
  const ts = (await read('src/protocol.ts')).match(/PROTOCOL_VERSION = (\d+)/)[1];
  const rust = (await read('../src/web/protocol.rs')).match(/PROTOCOL_VERSION: u32 = (\d+)/)[1];
  assert.equal(ts, rust);
});

test('manifests are held against the release that this is', async () => {
  const { version } = JSON.parse(await read('package.json'));
  const code = await read('src/manifest.ts');
  assert.equal(/const RUNTIME = '(.*)'/.exec(code)[1], version);
});

test('bundlers find the worker: the expression stands literally in what is shipped', async () => {
  const literal = "new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })";
  assert.ok((await read('dist/client.js')).includes(literal));
});

test('the page-side files never import the wasm glue', async () => {
  for (const name of ['index', 'client', 'engine', 'stream', 'models', 'capabilities', 'types', 'protocol']) {
    const code = await read(`dist/${name}.js`);
    assert.ok(!/from\s+'\.\/(lamplight|worker)\.js'/.test(code), `${name}.js imports the core`);
  }
});

test('every file that package.json names is shipped, and nothing is needed to run it', async () => {
  const pkg = JSON.parse(await read('package.json'));
  assert.equal(pkg.sideEffects, false);
  assert.equal(pkg.type, 'module');
  assert.equal(pkg.dependencies, undefined);
  assert.ok(pkg.files.includes('dist'));
  for (const target of Object.values(pkg.exports).flatMap((e) => (typeof e === 'string' ? [e] : Object.values(e)))) {
    assert.ok(target.startsWith('./dist/') || target === './package.json', target);
  }
});
