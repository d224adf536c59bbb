// Several tabs and one engine: each "tab" is a link of its own, over Node's BroadcastChannel and locks that stand in for the browser's.
import assert from 'node:assert/strict';
import { after, beforeEach, test } from 'node:test';
import { WorkerClient } from '../dist/client.js';
import { loadModel, modelName } from '../dist/download.js';
import { createEngine } from '../dist/engine.js';
import { SharedWorkerLink } from '../dist/tabs.js';
import { LamplightError } from '../dist/types.js';

const INFO = { backend: 'cpu', model: { name: 'toy', fileBytes: 8 }, load: { cached: false } };
/** Another model for each test: what one leaves behind is none of the next one's business. */
let body;
let models = 0;
beforeEach(() => {
  const source = { kind: 'url', url: `https://host/m${models++}.gguf?sig=1`, headers: {} };
  body = { source, backend: 'cpu', gpuPrecision: 'auto', cache: true };
});

/** The browser's locks, of which `crash` frees those of one tab. */
class Locks {
  #held = new Map();
  #queues = new Map();
  request(name, options, callback) {
    if (!callback) return this.request(name, {}, options);
    if (options.signal?.aborted) return Promise.reject(options.signal.reason);
    if (options.ifAvailable && this.#held.has(name)) return Promise.resolve(callback(null));
    return new Promise((resolve, reject) => {
      const entry = { name, callback, resolve, reject };
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, [...queue, entry]);
      options.signal?.addEventListener('abort', () => {
        this.#queues.set(name, this.#queues.get(name).filter((other) => other !== entry));
        reject(options.signal.reason);
      });
      this.#grant(name);
    });
  }
  #grant(name) {
    const [entry, ...rest] = this.#queues.get(name) ?? [];
    if (!entry || this.#held.has(name)) return;
    this.#queues.set(name, rest);
    this.#held.set(name, entry);
    queueMicrotask(async () => {
      await entry.callback({ name });
      if (this.#held.get(name) === entry) this.free(name);
      entry.resolve();
    });
  }
  free(name) {
    this.#held.delete(name);
    this.#grant(name);
  }
  get names() { return [...this.#held.keys()]; }
}

const locks = new Locks();
Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true });
/** All channels, so that a crashed tab falls silent and the process ends. */
const channels = [];
const Channel = globalThis.BroadcastChannel;
globalThis.BroadcastChannel = class extends Channel {
  constructor(name) {
    super(name);
    this.unref();
    channels.push(this);
  }
};

/** A worker that answers as `serve` says, and keeps what it was asked. */
class Worker {
  requests = [];
  constructor(serve) { this.serve = serve; }
  say(reply) { queueMicrotask(() => this.onmessage?.({ data: { ProcessOutput: [0, reply] } })); }
  postMessage(message) {
    if ('start' in message) queueMicrotask(() => this.onmessage?.({ data: 'WorkerLoaded' }));
    if (!('ProcessInput' in message)) return;
    const request = message.ProcessInput[1];
    this.requests.push(request);
    const load = () => this.say({ id: request.id, type: 'result', result: INFO });
    if (request.type === 'load') return this.load ? this.load(request, load) : load();
    this.serve(request, {
      text: (text) => this.say({ id: request.id, type: 'event', event: { kind: 'text', text } }),
      result: (result) => this.say({ id: request.id, type: 'result', result }),
      error: (error) => this.say({ id: request.id, type: 'error', error }),
    }, this);
  }
  terminate() { this.ended = true; }
}

/** Opens a tab; `serve` is what its worker does if it comes to have the engine. */
function tab(serve) {
  const worker = new Worker(serve);
  const before = channels.length;
  const link = new SharedWorkerLink(body, () => new WorkerClient({}, worker));
  const client = new WorkerClient({}, link);
  return { worker, link, client, ...heldBy(channels.slice(before)), load: () => client.call('load', body, {}) };
}

/** What a tab has that opened these channels. */
function heldBy([mine, group]) {
  mine.ofTab = group.ofTab = true;
  return { own: [mine, group], lock: `lamplight:member:${mine.name.slice(-36)}`, engine: group.name };
}

const alive = setInterval(() => undefined, 1000);
after(() => clearInterval(alive));

/** Lets channels and promises run. */
const settle = async (turns = 12) => { for (let i = 0; i < turns; i++) await new Promise((done) => { setTimeout(done, 4); }); };
const outcome = (text) => ({ text, finish_reason: 'stop', usage: {} });
/** The tab with the engine is gone at once, without a word: its channels are cut and the browser frees its locks. */
function crash(tab) {
  for (const channel of channels) if (tab.own.includes(channel) || !channel.ofTab) channel.close();
  locks.free(tab.engine);
  locks.free(tab.lock);
}

test('equal models have one name', () => {
  const url = (address, more) => modelName({ kind: 'url', url: address, headers: {}, ...more });
  assert.equal(url('https://h/a.gguf?sig=1#x'), 'https://h/a.gguf');
  assert.equal(url('https://h/a-00002-of-00003.gguf'), 'https://h/a-00001-of-00003.gguf');
  assert.equal(url('https://h/a.gguf', { cacheKey: 'mine' }), 'mine');
  const files = [{ name: 'm.safetensors', url: 'https://h/f/m.safetensors' }, { name: 'config.json', url: 'https://h/f/config.json?a' }];
  assert.equal(modelName({ kind: 'urls', files, headers: {} }), 'https://h/f/');
  assert.equal(modelName({ kind: 'folder', url: 'https://h/f/', headers: {} }), 'https://h/f/');
  assert.equal(modelName({ kind: 'blob', blob: new Blob([]) }), undefined);
});

test('two tabs use one worker, and take turns', async () => {
  const order = [];
  const answers = [];
  const serve = (request, reply) => {
    order.push(request.body.prompt);
    answers.push(() => reply.result(outcome(request.body.prompt)));
  };
  const [a, b] = [tab(serve), tab(serve)];
  await Promise.all([a.load(), b.load()]);
  assert.equal(a.worker.requests.length + b.worker.requests.length, 1, 'one load');
  const calls = ['a1', 'a2', 'a3'].map((prompt) => a.client.call('complete', { prompt }));
  await settle(3);
  calls.push(b.client.call('complete', { prompt: 'b1' }));
  await settle(3);
  for (let i = 0; i < 4; i++) {
    assert.equal(order.length, i + 1, 'one at a time');
    answers[i]();
    await settle(2);
  }
  assert.deepEqual(order, ['a1', 'b1', 'a2', 'a3']);
  assert.deepEqual((await Promise.all(calls)).map(({ text }) => text), ['a1', 'a2', 'a3', 'b1']);
});

test('a waiting request can be stopped, and a running one', async () => {
  const running = [];
  const serve = (request, reply) => {
    if (request.type === 'abort') running.shift().result({ ...outcome('half'), finish_reason: 'abort' });
    else running.push(reply);
  };
  const [a, b] = [tab(serve), tab(serve)];
  await Promise.all([a.load(), b.load()]);
  const first = new AbortController();
  const second = new AbortController();
  const one = a.client.call('complete', { prompt: '1' }, { signal: first.signal });
  await settle(2);
  const two = b.client.call('complete', { prompt: '2' }, { signal: second.signal });
  await settle(3);
  second.abort();
  await assert.rejects(two, { code: 'aborted' });
  first.abort();
  assert.equal((await one).finish_reason, 'abort');
});

test('when the tab with the engine goes, the next loads it and goes on without saying a word twice', async () => {
  const a = tab((_request, reply) => { reply.text('one '); reply.text('two '); });
  await a.load();
  const b = tab((_request, reply) => {
    for (const text of ['on', 'e two', ' three', ' four']) reply.text(text);
    reply.result(outcome('one two three four'));
  });
  await b.load();
  const heard = [];
  const call = b.client.call('complete', { prompt: 'count' }, { onEvent: (event) => heard.push(event.text) });
  await settle();
  assert.deepEqual(heard, ['one ', 'two ']);
  let reloaded = 0;
  b.link.onreload = () => { reloaded += 1; };
  const seed = a.worker.requests[1].body.seed;
  crash(a);
  assert.equal((await call).text, 'one two three four');
  assert.equal(heard.join(''), 'one two three four');
  assert.equal(reloaded, 1);
  assert.ok(Number.isInteger(seed), 'what is sampled needs a seed to come out the same');
  assert.equal(b.worker.requests[1].body.seed, seed);
});

test('a text that does not come out the same fails once', async () => {
  const a = tab((_request, reply) => { reply.text('one two '); });
  await a.load();
  const b = tab((request, reply) => { if (request.type === 'complete') reply.text('one three'); });
  await b.load();
  const heard = [];
  const call = b.client.call('complete', { prompt: 'count' }, { onEvent: (event) => heard.push(event.text) });
  await settle();
  crash(a);
  await assert.rejects(call, { code: 'interrupted' });
  assert.deepEqual(heard, ['one two ']);
});

test('a request that loses three tabs is not tried on a fourth', async () => {
  const tabs = [1, 2, 3, 4].map(() => tab(() => undefined));
  await tabs[0].load();
  const last = tabs[3];
  await last.load();
  const call = last.client.call('forward', { ids: new Uint32Array([1]), all: false });
  for (const dead of tabs.slice(0, 3)) {
    await settle();
    crash(dead);
  }
  await assert.rejects(call, { code: 'interrupted' });
});

test('a worker that dies fails the request that it had, and those that wait go on in another', async () => {
  let dies = true;
  const a = tab((request, reply, worker) => {
    if (!dies) return reply.result(outcome('fine'));
    dies = false;
    queueMicrotask(() => worker.onmessage({ data: { failed: 'out of luck' } }));
  });
  const b = tab(() => undefined);
  await Promise.all([a.load(), b.load()]);
  const one = assert.rejects(a.client.call('complete', { prompt: '1' }), { code: 'worker-failed' });
  await settle(1);
  const two = b.client.call('complete', { prompt: '2' });
  await one;
  assert.equal((await two).text, 'fine');
});

test('an engine that could not be loaded again is tried once more by the next request', async () => {
  let [dies, loadable] = [true, true];
  const a = tab((_request, reply, worker) => {
    if (!dies) return reply.result(outcome('fine'));
    [dies, loadable] = [false, false];
    queueMicrotask(() => worker.onmessage({ data: { failed: 'out of luck' } }));
  });
  a.worker.load = (request, load) => (loadable ? load() : a.worker.say({ id: request.id, type: 'error', error: { code: 'out-of-memory', message: 'full' } }));
  await a.load();
  const call = () => a.client.call('complete', { prompt: '1' });
  await assert.rejects(call(), { code: 'worker-failed' });
  await settle();
  await assert.rejects(call(), { code: 'out-of-memory' });
  loadable = true;
  assert.equal((await call()).text, 'fine');
});

test('a tab that takes an engine over starts a worker for it, though it had one to look the model up', async () => {
  const workers = [];
  const page = {
    Worker: class extends Worker {
      constructor() {
        super((request, reply) => reply.result(request.type === 'models' ? [] : outcome('fine')));
        workers.push(this);
      }
    },
    fetch: async () => new Response(JSON.stringify([{ type: 'file', path: 'm.gguf', size: 8 }])),
  };
  const { fetch } = globalThis;
  Object.assign(globalThis, page);
  const open = async () => {
    const before = channels.length;
    const loaded = await createEngine({ model: 'hf:o/r/m.gguf', shared: true });
    return { loaded, ...heldBy(channels.slice(before)) };
  };
  const [first, second] = [await open(), await open()];
  assert.deepEqual(workers.map(({ ended }) => ended), [undefined, true], 'the second tab needs no worker of its own');
  crash(first);
  assert.equal((await second.loaded.completions.create({ prompt: 'x' })).choices[0].text, 'fine');
  assert.deepEqual(workers[2].requests.map(({ type }) => type), ['load', 'complete']);
  await second.loaded.dispose();
  delete globalThis.Worker;
  globalThis.fetch = fetch;
});

test('the engine is freed with its last user, and adapters are refused', async () => {
  const [a, b] = [tab(() => undefined), tab(() => undefined)];
  await Promise.all([a.load(), b.load()]);
  await assert.rejects(a.client.call('setAdapters', { scales: [] }), { code: 'invalid-request' });
  const { worker } = a.worker.requests.length > 0 ? a : b;
  a.client.close(new Error('done'));
  await settle();
  assert.equal(worker.ended, undefined);
  b.client.close(new Error('done'));
  await settle();
  assert.equal(worker.ended, true);
  assert.deepEqual(locks.names.filter((name) => name === a.engine || name === a.lock || name === b.lock), []);
});

test('a second download of a model waits with the first one\'s progress, then reads the store', async () => {
  const progress = (phase, fraction) => ({ kind: 'progress', progress: { phase, loadedBytes: fraction * 8, totalBytes: 8, fraction } });
  /** A worker whose load goes on as the test says. */
  const download = () => {
    const calls = [];
    const client = { call: (type, _body, options) => (type === 'models' ? Promise.resolve([]) : new Promise((done) => { calls.push({ done, say: options.onEvent }); })) };
    const heard = [];
    const done = loadModel(client, body, { onEvent: (event) => heard.push(event.progress) });
    return { calls, heard, done };
  };
  const first = download();
  await settle(2);
  const second = download();
  await settle(2);
  assert.equal(second.calls.length, 0);
  first.calls[0].say(progress('downloading', 0.5));
  await settle(2);
  assert.deepEqual(second.heard.map(({ phase, fraction }) => [phase, fraction]), [['waiting', 0], ['waiting', 0.45]]);
  first.calls[0].say(progress('checking', 0.9));
  await settle(2);
  second.calls[0].say(progress('reading-cache', 0));
  second.calls[0].say(progress('ready', 1));
  second.calls[0].done(INFO);
  first.calls[0].done(INFO);
  await Promise.all([first.done, second.done]);
  assert.deepEqual(second.heard.slice(2).map(({ phase, fraction }) => [phase, fraction]), [['reading-cache', 0.45], ['ready', 1]]);
  assert.deepEqual(locks.names.filter((name) => name.startsWith('lamplight:download')), []);
});

test('a tab whose storage is broken downloads for itself when the other one has', async () => {
  let done;
  const first = loadModel({ call: () => new Promise((resolve) => { done = () => resolve(INFO); }) }, body, {});
  await settle(2);
  const broken = { call: (type) => (type === 'models' ? Promise.reject(new LamplightError('storage', 'broken')) : Promise.resolve(INFO)) };
  const second = loadModel(broken, body, {});
  await settle(2);
  done();
  assert.deepEqual(await Promise.all([first, second]), [INFO, INFO]);
});
