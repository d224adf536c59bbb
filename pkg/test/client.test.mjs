// The page's end of the protocol against a worker that does just what each test says.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WorkerClient } from '../dist/client.js';
import { createEngine, loadEngine } from '../dist/engine.js';
import { fit } from '../dist/fit.js';
import { createModelCache } from '../dist/models.js';
import { LamplightError } from '../dist/types.js';

const INFO = { backend: 'cpu', model: { name: 'toy', nVocab: 4 }, load: { cached: false } };
const USAGE = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5, cached_tokens: 0, timings: {} };

/** Answers requests with `handlers[type](request, reply)`; keeps what it was sent. */
class FakeWorker {
  sent = [];
  terminated = false;
  constructor(handlers = {}, { loads = true } = {}) {
    this.handlers = handlers;
    this.loads = loads;
  }
  say(data) { queueMicrotask(() => this.onmessage?.({ data })); }
  reply(reply) { this.say({ ProcessOutput: [0, reply] }); }
  postMessage(message) {
    structuredClone(message);
    this.sent.push(message);
    if ('start' in message && this.loads) this.say('WorkerLoaded');
    if (!('ProcessInput' in message)) return;
    const request = message.ProcessInput[1];
    this.handlers[request.type]?.(request, {
      result: (result) => this.reply({ id: request.id, type: 'result', result }),
      error: (error) => this.reply({ id: request.id, type: 'error', error }),
      event: (event) => this.reply({ id: request.id, type: 'event', event }),
      to: (id, rest) => this.reply({ id, ...rest }),
    });
  }
  terminate() { this.terminated = true; }
  get requests() { return this.sent.flatMap((m) => ('ProcessInput' in m ? [m.ProcessInput[1]] : [])); }
}

const load = (_request, reply) => reply.result(INFO);
const engineWith = (handlers, options = {}) => {
  const worker = new FakeWorker({ load, ...handlers });
  return loadEngine({ model: 'https://host/dir/m.gguf?token=1#x', ...options }, worker).then((engine) => ({ engine, worker }));
};

test('a load sends what it was given and gives the info', async () => {
  const { engine, worker } = await engineWith({}, { backend: 'cpu', contextLength: 512, wasmUrl: 'https://host/l.wasm' });
  assert.deepEqual(worker.sent[0], { start: { wasmUrl: 'https://host/l.wasm' } });
  assert.deepEqual(worker.sent[1], { Connected: 0 });
  const { v, type, body } = worker.requests[0];
  assert.deepEqual({ v, type }, { v: 1, type: 'load' });
  assert.deepEqual(body.source, { kind: 'url', url: 'https://host/dir/m.gguf?token=1#x', headers: {} });
  assert.deepEqual([body.backend, body.contextLength, body.cache], ['cpu', 512, true]);
  assert.equal(engine.info, INFO);
});

test('several addresses are sent with the names that the files have', async () => {
  const sent = async (model) => {
    const { worker } = await engineWith({}, { model });
    return worker.requests[0].body.source;
  };
  const shards = ['https://host/m-00002-of-00002.gguf?x=1', new URL('https://host/m-00001-of-00002.gguf')];
  assert.deepEqual(await sent(shards), {
    kind: 'urls', headers: {},
    files: [
      { name: 'm-00002-of-00002.gguf', url: 'https://host/m-00002-of-00002.gguf?x=1' },
      { name: 'm-00001-of-00002.gguf', url: 'https://host/m-00001-of-00002.gguf' },
    ],
  });
  const folder = ['1_Pooling/config.json', 'config.json', 'model%20a.safetensors'].map((name) => `https://host/dir/${name}`);
  const { kind, files, headers, cacheKey } = await sent({ url: folder, headers: { a: 'b' }, cacheKey: 'k' });
  assert.deepEqual([kind, headers, cacheKey], ['urls', { a: 'b' }, 'k']);
  assert.deepEqual(files.map(({ name }) => name), ['1_Pooling/config.json', 'config.json', 'model a.safetensors']);
  assert.deepEqual(await sent(['https://host/dir/']), { kind: 'folder', url: 'https://host/dir/', headers: {} });
  for (const model of [[], [shards[0], shards[0]], [shards[0], new Blob([])], { url: [] }, { url: 5 }]) {
    await assert.rejects(engineWith({}, { model }), { code: 'invalid-request', field: 'model' });
  }
});

test('progress never falls, and begins at once', async () => {
  const seen = [];
  const progress = (fraction) => ({ kind: 'progress', progress: { phase: 'downloading', loadedBytes: 0, totalBytes: 1, fraction } });
  await engineWith({
    load: (_r, reply) => { for (const f of [0.2, 0.1, 0.7, 1]) reply.event(progress(f)); reply.result(INFO); },
  }, { onProgress: (p) => seen.push(p.fraction) });
  assert.deepEqual(seen, [0, 0.2, 0.2, 0.7, 1]);
});

test('a failed load rejects with code, message and field unchanged, and ends the worker', async () => {
  const worker = new FakeWorker({
    load: (_r, reply) => reply.error({ code: 'missing-tensor', message: 'no head', field: 'output.weight' }),
  });
  await assert.rejects(loadEngine({ model: 'https://h/m' }, worker), (error) => {
    assert.ok(error instanceof LamplightError);
    assert.deepEqual([error.code, error.message, error.field], ['missing-tensor', 'no head', 'output.weight']);
    return true;
  });
  assert.ok(worker.terminated);
});

test('an abort rejects a load at once; a worker that never speaks is ended a little later', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const worker = new FakeWorker({}, { loads: false });
  const abort = new AbortController();
  const engine = loadEngine({ model: 'https://h/m', signal: abort.signal }, worker);
  await new Promise(setImmediate);
  abort.abort('why not');
  await assert.rejects(engine, { code: 'aborted', cause: 'why not' });
  assert.equal(worker.terminated, false);
  t.mock.timers.tick(10_000);
  assert.ok(worker.terminated);
});

test('an aborted load lets its worker store what it has, and ends it with its answer', async () => {
  let stored;
  let say;
  const worker = new FakeWorker({
    load: (_request, reply) => {
      say = () => reply.event({ kind: 'progress', progress: { phase: 'downloading', loadedBytes: 1, totalBytes: 2, fraction: 0.5 } });
    },
    abort: (request, reply) => {
      stored = () => reply.to(request.body.target, { type: 'error', error: { code: 'aborted', message: 'stopped' } });
    },
  });
  const abort = new AbortController();
  const phases = [];
  const engine = loadEngine({ model: 'https://h/m', signal: abort.signal, onProgress: ({ phase }) => phases.push(phase) }, worker);
  await new Promise(setImmediate);
  say();
  await new Promise(setImmediate);
  // On its way when the load is aborted: whoever has been told the end hears of no progress after it.
  say();
  abort.abort();
  say();
  await assert.rejects(engine, { code: 'aborted' });
  say();
  await new Promise(setImmediate);
  assert.deepEqual(phases, ['starting', 'downloading']);
  assert.equal(worker.terminated, false);
  stored();
  await new Promise(setImmediate);
  assert.ok(worker.terminated);
});

for (const [name, fail] of [
  ['an error event', (w) => w.onerror({ message: 'RuntimeError: unreachable' })],
  ['an unreadable message', (w) => w.onmessageerror({})],
  ['its own word', (w) => w.onmessage({ data: { failed: 'the wasm core panicked' } })],
]) {
  test(`a worker that dies (${name}) rejects what runs and what comes later`, async () => {
    const { engine, worker } = await engineWith({});
    const call = engine.tokenize('a');
    fail(worker);
    await assert.rejects(call, { code: 'worker-failed' });
    await assert.rejects(engine.tokenize('b'), { code: 'worker-failed' });
    assert.ok(worker.terminated);
  });
}

test('dispose ends the worker, rejects what runs, and may be called twice', async () => {
  const { engine, worker } = await engineWith({});
  const call = engine.detokenize([1]);
  await engine.dispose();
  await engine.dispose();
  await assert.rejects(call, { code: 'disposed' });
  await assert.rejects(engine.tokenize('a'), { code: 'disposed' });
  assert.ok(worker.terminated);
});

test('a chat completion has the shape of OpenAI, and unknown settings stay behind', async () => {
  const { engine, worker } = await engineWith({
    chat: (_r, reply) => reply.result({ text: 'Hi!', finish_reason: 'stop', usage: USAGE }),
  });
  const messages = [{ role: 'user', content: 'Hello', extra: 1 }];
  const answer = await engine.chat.completions.create({ messages, model: 'x', temperature: 0, stop: '\n', top_p: null });
  assert.equal(answer.object, 'chat.completion');
  assert.deepEqual(answer.choices, [{ index: 0, message: { role: 'assistant', content: 'Hi!' }, finish_reason: 'stop' }]);
  assert.deepEqual([answer.model, answer.usage], ['toy', USAGE]);
  assert.deepEqual(worker.requests[1].body, {
    temperature: 0, stop: ['\n'], messages: [{ role: 'user', content: 'Hello' }], template_args: {},
  });
});

test('tool calls and their answers reach the worker, with content where a client sends null', async () => {
  const { engine, worker } = await engineWith({
    chat: (_r, reply) => reply.result({ text: 'Sun.', finish_reason: 'stop', usage: USAGE }),
  });
  const calls = [{ id: 'a1', type: 'function', function: { name: 'weather', arguments: { z: 1, a: 2 } } }];
  const messages = [
    { role: 'user', content: 'Rain?' },
    { role: 'assistant', content: null, tool_calls: calls, reasoning_content: 'Hm.' },
    { role: 'tool', content: 'no', tool_call_id: 'a1', name: 'weather' },
  ];
  await engine.chat.completions.create({ messages, template_args: { tools: [] } });
  const [, call, answer] = worker.requests[1].body.messages;
  assert.deepEqual(call, { role: 'assistant', content: '', tool_calls: calls, reasoning_content: 'Hm.' });
  assert.deepEqual(Object.keys(call.tool_calls[0].function.arguments), ['z', 'a']);
  assert.deepEqual(answer, { role: 'tool', content: 'no', tool_call_id: 'a1', name: 'weather' });
});

const streaming = {
  chat: (_r, reply) => {
    reply.event({ kind: 'started' });
    reply.event({ kind: 'text', text: 'Hel' });
    reply.event({ kind: 'text', text: 'lo' });
    reply.result({ text: 'Hello', finish_reason: 'stop', usage: USAGE });
  },
};

test('a stream gives role, text and a last chunk with reason and usage', async () => {
  const { engine } = await engineWith(streaming);
  const stream = await engine.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], stream: true });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.deepEqual(chunks.map((c) => c.choices[0].delta), [
    { role: 'assistant', content: '' }, { content: 'Hel' }, { content: 'lo' }, {},
  ]);
  assert.deepEqual(chunks.map((c) => c.choices[0].finish_reason), [null, null, null, 'stop']);
  assert.deepEqual(chunks.at(-1).usage, USAGE);
  assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
});

test('a stream is a ReadableStream too', async () => {
  const { engine } = await engineWith(streaming);
  const stream = await engine.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], stream: true });
  assert.ok(stream instanceof ReadableStream);
  const reader = stream.getReader();
  assert.equal((await reader.read()).value.choices[0].delta.role, 'assistant');
});

test('a stream can be iterated where the browser has no async iteration of streams', async () => {
  const own = Object.getOwnPropertyDescriptor(ReadableStream.prototype, Symbol.asyncIterator);
  delete ReadableStream.prototype[Symbol.asyncIterator];
  try {
    const { engine, worker } = await engineWith({
      chat: (r, reply) => { reply.event({ kind: 'started' }); reply.event({ kind: 'text', text: 'a' }); },
      abort: () => {},
    });
    const stream = await engine.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], stream: true });
    let n = 0;
    for await (const _chunk of stream) if (++n === 2) break;
    assert.deepEqual(worker.requests.at(-1).body, { target: worker.requests[1].id });
  } finally {
    Object.defineProperty(ReadableStream.prototype, Symbol.asyncIterator, own);
  }
});

test('leaving the loop aborts the request', async () => {
  const { engine, worker } = await engineWith({
    chat: (r, reply) => { reply.event({ kind: 'started' }); reply.event({ kind: 'text', text: 'a' }); },
  });
  const stream = await engine.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], stream: true });
  for await (const _chunk of stream) break;
  const last = worker.requests.at(-1);
  assert.deepEqual([last.type, last.body.target], ['abort', worker.requests[1].id]);
});

test('a signal sends an abort; the stream then ends with the reason abort', async () => {
  let running;
  const { engine } = await engineWith({
    chat: (r, reply) => { running = r.id; reply.event({ kind: 'started' }); reply.event({ kind: 'text', text: 'a' }); },
    abort: (r, reply) => {
      assert.equal(r.body.target, running);
      reply.to(running, { type: 'result', result: { text: 'a', finish_reason: 'abort', usage: USAGE } });
    },
  });
  const abort = new AbortController();
  const request = { messages: [{ role: 'user', content: 'x' }], stream: true, signal: abort.signal };
  const reasons = [];
  for await (const chunk of await engine.chat.completions.create(request)) {
    reasons.push(chunk.choices[0].finish_reason);
    if (chunk.choices[0].delta.content) abort.abort();
  }
  assert.deepEqual(reasons, [null, null, 'abort']);
});

test('an aborted request without stream rejects, with the reason of its signal', async () => {
  const { engine } = await engineWith({
    abort: (r, reply) => reply.to(r.body.target, { type: 'result', result: { text: 'a', finish_reason: 'abort', usage: USAGE } }),
  });
  const abort = new AbortController();
  const answer = engine.completions.create({ prompt: 'x', signal: abort.signal });
  abort.abort('enough');
  await assert.rejects(answer, { code: 'aborted', cause: 'enough' });
});

test('an error before the first token rejects the call, one after it fails the stream', async () => {
  const error = { code: 'context-length-exceeded', message: 'too long' };
  const early = await engineWith({ chat: (_r, reply) => reply.error(error) });
  const request = { messages: [{ role: 'user', content: 'x' }], stream: true };
  await assert.rejects(early.engine.chat.completions.create(request), { code: 'context-length-exceeded' });
  const late = await engineWith({
    chat: (_r, reply) => { reply.event({ kind: 'started' }); reply.error({ code: 'gpu-lost', message: 'gone' }); },
  });
  const reader = (await late.engine.chat.completions.create(request)).getReader();
  await assert.rejects(reader.read().then(() => reader.read()), { code: 'gpu-lost' });
});

test('adapters are sent as bytes, by whatever they were given', async (t) => {
  const { engine, worker } = await engineWith({
    loadAdapter: (_r, reply) => reply.result(7),
    setAdapters: (_r, reply) => reply.result(null),
    removeAdapter: (_r, reply) => reply.result(null),
  });
  const bytes = new Uint8Array([1, 2, 3]);
  assert.equal(await engine.loadAdapter(bytes), 7);
  await engine.loadAdapter({ config: new Blob([bytes]), tensors: bytes.buffer }, { scale: 0.5 });
  t.mock.method(globalThis, 'fetch', async (url) => (
    String(url).endsWith('gone') ? new Response('', { status: 404 }) : new Response(bytes)
  ));
  await engine.loadAdapter('https://host/a.gguf');
  await engine.setAdapters([{ id: 7, scale: -2 }]);
  await engine.removeAdapter(7);
  assert.deepEqual(worker.requests.slice(1).map(({ type, body }) => [type, body]), [
    ['loadAdapter', { gguf: bytes, scale: 1 }],
    ['loadAdapter', { config: bytes, tensors: bytes, scale: 0.5 }],
    ['loadAdapter', { gguf: bytes, scale: 1 }],
    ['setAdapters', { scales: [[7, -2]] }],
    ['removeAdapter', { id: 7 }],
  ]);
  await assert.rejects(engine.loadAdapter('https://host/gone'), { code: 'http-status', field: 'source' });
  await assert.rejects(engine.loadAdapter(7), { code: 'invalid-request', field: 'source' });
});

test('bad arguments are refused with the field at fault and never reach the worker', async () => {
  const { engine, worker } = await engineWith({});
  const bad = [
    [() => engine.chat.completions.create({}), 'messages'],
    [() => engine.chat.completions.create(undefined), 'messages'],
    [() => engine.chat.completions.create({ messages: [{ role: 'user' }] }), 'messages[0].content'],
    [() => engine.chat.completions.create({ messages: [null] }), 'messages[0].role'],
    [() => engine.chat.completions.create({ messages: [{ role: 'assistant', content: '', tool_calls: {} }] }), 'messages[0].tool_calls'],
    [() => engine.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], temperature: 'hot' }), 'temperature'],
    [() => engine.completions.create({ prompt: [1, -1] }), 'prompt[1]'],
    [() => engine.completions.create({ prompt: 7 }), 'prompt'],
    [() => engine.forward([1.5]), 'ids[0]'],
    [() => engine.tokenize(5), 'text'],
  ];
  for (const [call, field] of bad) await assert.rejects(call, { code: 'invalid-request', field });
  await assert.rejects(loadEngine({}, new FakeWorker()), { code: 'invalid-request', field: 'model' });
  await assert.rejects(loadEngine({ model: 'https://h/', backend: 'tpu' }, new FakeWorker()), { field: 'backend' });
  assert.equal(worker.requests.length, 1);
});

test('what cannot be cloned is the caller\'s error, not a dead worker', async () => {
  const { engine } = await engineWith({ tokenize: (_r, reply) => reply.result(new Uint32Array([1])) });
  const request = { messages: [{ role: 'user', content: 'x' }], template_args: { f: () => {} } };
  await assert.rejects(engine.chat.completions.create(request), { code: 'invalid-request' });
  assert.deepEqual(await engine.tokenize('a'), new Uint32Array([1]));
});

test('answers to nobody, and unknown messages, are ignored', async () => {
  const worker = new FakeWorker({ models: (_r, reply) => { reply.to(99, { type: 'result', result: 1 }); reply.result([]); } });
  const client = new WorkerClient({}, worker);
  worker.onmessage({ data: { other: 1 } });
  assert.deepEqual(await client.call('models', {}), []);
});

const MANIFEST = 'https://host/d/model.json';
const manifest = (version) => ({
  lamplight: 1, name: 'm', version, partBytes: 16 * 2 ** 20, settings: { contextLength: 512 },
  files: [{ name: 'm.gguf', bytes: 8, sha256: '0'.repeat(64) }],
});
const notes = (state) => ({ [`lamplight:manifest:${MANIFEST}`]: JSON.stringify(state) });
const settle = () => new Promise((resolve) => { setTimeout(resolve, 20); });

/** Gives `body` the globals of a page: workers that answer with `handlers`, a server that has `served`, and a localStorage. */
async function inPage({ handlers, served, kept = {}, mayKeep = true }, body) {
  const workers = [];
  const globals = {
    Worker: class extends FakeWorker {
      constructor() {
        super(handlers);
        workers.push(this);
      }
    },
    fetch: async (url) => new Response(JSON.stringify(served(new URL(url).pathname))),
    localStorage: {
      getItem: (key) => kept[key] ?? null,
      setItem: (key, value) => { if (!mayKeep) throw new DOMException('full', 'QuotaExceededError'); kept[key] = value; },
    },
  };
  const before = Object.fromEntries(Object.keys(globals).map((key) => [key, Object.getOwnPropertyDescriptor(globalThis, key)]));
  for (const [key, value] of Object.entries(globals)) Object.defineProperty(globalThis, key, { value, configurable: true, writable: true });
  try {
    await body({ workers, kept, asked: (type) => workers.flatMap(({ requests }) => requests).filter((request) => request.type === type) });
  } finally {
    for (const [key, value] of Object.entries(before)) if (value) Object.defineProperty(globalThis, key, value); else delete globalThis[key];
  }
}
const loads = (_request, reply) => reply.result({ ...INFO, warnings: [], load: { cached: true } });
const stores = (keys) => (_request, reply) => reply.result(keys.map((key) => ({ key, complete: true })));
const deletes = (_request, reply) => reply.result(null);

test('a first release starts one worker; where nothing can be noted, no release is removed', async () => {
  const handlers = { load: loads, models: stores(['1', '2', '3'].map((version) => `${MANIFEST}@${version}`)), deleteModel: deletes };
  const of = { handlers, served: () => manifest('3') };
  const load = async ({ workers, asked }) => {
    await createEngine({ model: { manifest: MANIFEST } });
    await settle();
    return [workers.length, asked('deleteModel').map(({ body }) => body.key)];
  };
  const old = notes({ active: manifest('2'), previous: manifest('1') });
  await inPage(of, async (page) => assert.deepEqual(await load(page), [1, []]));
  await inPage({ ...of, kept: { ...old }, mayKeep: false }, async (page) => assert.deepEqual(await load(page), [1, []]));
  await inPage({ ...of, kept: { ...old } }, async (page) => assert.deepEqual(await load(page), [2, [`${MANIFEST}@1`]]));
});

test('a release that does not load is said in the engine\'s warnings, and found again under a new signature', async () => {
  let version = '1';
  const handlers = {
    load: (request, reply) => (request.body.source.cacheKey.endsWith('@2')
      ? reply.error({ code: 'integrity', message: 'part 2 is bad' }) : loads(request, reply)),
  };
  await inPage({ handlers, served: () => manifest(version) }, async () => {
    await createEngine({ model: { manifest: `${MANIFEST}?sig=1` } });
    version = '2';
    const heard = [];
    const engine = await createEngine({ model: { manifest: `${MANIFEST}?sig=2` }, onWarning: (warning) => heard.push(warning) });
    assert.deepEqual(heard.map(({ code }) => code), ['integrity']);
    assert.deepEqual(engine.info.warnings, heard);
  });
});

test('whether a manifest\'s model fits is asked with its settings', async () => {
  const facts = {
    backend: 'cpu', backendReason: '', contextLength: 512, missingBytes: 0, model: { formats: {} },
    needs: { weightBytes: 1, kvBytes: 1, workspaceBytes: 1 },
  };
  await inPage({ handlers: { fit: (_request, reply) => reply.result(facts) }, served: () => manifest('1') }, async ({ asked }) => {
    await fit({ model: { manifest: MANIFEST }, threads: 2 });
    assert.deepEqual(asked('fit').map(({ body }) => [body.contextLength, body.threads]), [[512, 2]]);
  });
});

test('a hub\'s model is looked up by the worker that loads it, and asked for by its first file', async () => {
  const served = () => ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf'].map((path) => ({ type: 'file', path, size: 8 }));
  await inPage({ handlers: { load: loads, models: stores([]) }, served }, async ({ workers }) => {
    const engine = await createEngine({ model: 'hf:o/r/m-00002-of-00002.gguf' });
    assert.equal(workers.length, 1);
    assert.deepEqual(workers[0].requests.map(({ type }) => type), ['models', 'load']);
    const { url, cacheKey } = workers[0].requests[1].body.source;
    assert.equal(url, 'https://huggingface.co/o/r/resolve/main/m-00001-of-00002.gguf');
    assert.deepEqual([cacheKey, engine.info.load.key], Array(2).fill('hf:o/r/m-00001-of-00002.gguf@main'));
  });
});

test('a hub that refuses leaves no worker behind', async () => {
  await inPage({ handlers: { models: stores([]) }, served: () => ({ error: 'no list' }) }, async ({ workers }) => {
    await assert.rejects(createEngine({ model: 'hf:o/r' }), { code: 'not-a-model' });
    assert.deepEqual(workers.map(({ terminated }) => terminated), [true]);
  });
});

test('a download asks for the model and no engine; an update for the release that is new', async () => {
  let version = '1';
  const handlers = {
    load: loads, download: (_request, reply) => reply.result(8),
    models: stores(['https://host/m.gguf', `${MANIFEST}@1`, `${MANIFEST}@2`]),
  };
  await inPage({ handlers, served: () => manifest(version) }, async ({ asked, workers }) => {
    const cache = createModelCache();
    assert.equal((await cache.download('https://host/m.gguf?token=1')).key, 'https://host/m.gguf');
    const model = { manifest: MANIFEST };
    await createEngine({ model });
    assert.equal(await cache.update(model), undefined);
    version = '2';
    assert.equal(await cache.update(model), '2');
    assert.deepEqual(asked('download').map(({ body }) => body.source.cacheKey), [undefined, `${MANIFEST}@2`]);
    assert.equal(asked('load').length, 1);
    assert.equal(workers.filter(({ requests }) => requests.some(({ type }) => type === 'download')).every(({ terminated }) => terminated), true);
    await assert.rejects(cache.download(new Blob([])), { code: 'invalid-request', field: 'model' });
  });
});

test('a release that was downloaded ahead is not removed as an old one', async () => {
  const handlers = {
    load: loads, download: (_request, reply) => reply.result(8), deleteModel: deletes,
    models: stores(['1', '2', '3', '4'].map((version) => `${MANIFEST}@${version}`)),
  };
  let version = '4';
  const kept = notes({ active: manifest('2'), previous: manifest('1') });
  await inPage({ handlers, served: () => manifest(version), kept }, async ({ asked }) => {
    const model = { manifest: MANIFEST };
    const cache = createModelCache();
    assert.equal(await cache.update(model), '4');
    version = '3';
    await createEngine({ model });
    await settle();
    assert.deepEqual(asked('deleteModel').map(({ body }) => body.key), [`${MANIFEST}@1`]);
    version = '4';
    await createEngine({ model });
    await settle();
    assert.deepEqual(asked('deleteModel').map(({ body }) => body.key), ['1', '1', '2'].map((old) => `${MANIFEST}@${old}`));
    assert.equal(await cache.update(model), undefined);
  });
});

test('an aborted download is heard at once, and its worker stores what it has', async () => {
  let stored;
  const handlers = { abort: (request, reply) => { stored = () => reply.to(request.body.target, { type: 'error', error: { code: 'aborted', message: 'stopped' } }); } };
  await inPage({ handlers }, async ({ workers }) => {
    const abort = new AbortController();
    const download = createModelCache().download('https://host/m.gguf', { signal: abort.signal });
    await settle();
    abort.abort();
    await assert.rejects(download, { code: 'aborted' });
    assert.equal(workers[0].terminated, false);
    stored();
    await settle();
    assert.equal(workers[0].terminated, true);
  });
});
