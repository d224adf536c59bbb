/** `createEngine` and the `Engine` it gives: OpenAI's request shapes on top of the worker's messages. */
import { capabilities } from './capabilities.js';
import { WorkerClient, abortedError, absolute, endSoon, type CallOptions, type WorkerLike } from './client.js';
import { directorySource, isDirectory } from './directory.js';
import { loadModel } from './download.js';
import { activate, isManifest, latest, outdated, releaseSource, type Release } from './manifest.js';
import { DEFAULT_HUB, hubAddress, resolveHub, roomForModel, type HubAddress } from './model-hub.js';
import { createModelCache, listStored } from './models.js';
import type { Outcome, Requests, WireExpected, WireSampling, WireSource, WorkerEvent } from './protocol.js';
import { persist, storageState } from './storage.js';
import { chunkStream, type ChunkSink } from './stream.js';
import { SharedWorkerLink, canShare } from './tabs.js';
import {
  LamplightError,
  type AdapterPart, type AdapterSource, type ChatCompletion, type ChatCompletionChunk, type ChatMessage, type ChatRequest, type ChunkStream, type Completion,
  type CompletionRequest, type EmbeddingRequest, type EmbeddingResponse, type Engine, type EngineInfo, type EngineOptions, type FinishReason, type Progress, type RemoteModel,
  type SamplingOptions, type Usage,
} from './types.js';

/** Starts a worker, loads the model into it, and gives the engine. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const model = options?.model;
  if (isDirectory(model)) return loadEngine(options, undefined, await directorySource(model));
  if (!isManifest(model)) return loadEngine(options, undefined);
  return loadRelease(options, await latest(model, options.signal), model.headers);
}

/** Loads a release of a model; the one before where it does not load. */
async function loadRelease(options: EngineOptions, release: Release, headers: Record<string, string> | undefined): Promise<Engine> {
  const { contextLength, quantize, gpuPrecision } = release.manifest.settings ?? {};
  const settings = { contextLength, quantize, gpuPrecision } as Partial<EngineOptions>;
  try {
    const engine = await loadEngine({ ...settings, ...options }, undefined, releaseSource(release, headers));
    if (activate(release)) void removeOld(options, release).catch(() => undefined);
    return engine;
  } catch (error) {
    const { fallback, url, manifest } = release;
    if (!fallback || !(error instanceof LamplightError) || error.code === 'aborted') throw error;
    const message = `release ${manifest.version} does not load (${error.message}); release ${fallback.version} is used`;
    options.onWarning?.({ code: error.code, message });
    return loadRelease(options, { url, manifest: fallback, fallback: undefined }, headers);
  }
}

/** Removes the releases before the last two. */
async function removeOld(options: EngineOptions, release: Release): Promise<void> {
  const cache = createModelCache(options);
  const keys = (await cache.list()).map(({ key }) => key);
  for (const key of outdated(release, keys)) await cache.delete(key);
}

/** `createEngine` with the worker given (tests bring their own), and where the model is, if that is looked up already. */
export async function loadEngine(options: EngineOptions, worker: WorkerLike | undefined, source?: WireSource): Promise<Engine> {
  const address = hubAddress(options?.model);
  const unresolved = loadBody(options, source);
  const { signal, onProgress, onWarning } = options;
  if (signal?.aborted) throw abortedError(signal);
  const progress = monotonic(onProgress);
  progress({ phase: 'starting', loadedBytes: 0, totalBytes: 0, fraction: 0 });
  const body = address ? await resolved(options, unresolved, address) : unresolved;
  const link = options.shared && !worker && canShare() ? new SharedWorkerLink(body, options) : undefined;
  const client = new WorkerClient(options, worker ?? link);
  // The caller hears of its abort at once, the worker as soon as it listens.
  const stopped = new Promise<never>((_, reject) => {
    signal?.addEventListener('abort', () => reject(abortedError(signal)), { once: true });
  });
  const call: CallOptions = {
    signal,
    onEvent: (event) => {
      if (event.kind === 'progress') progress(event.progress);
      else if (event.kind === 'warning') onWarning?.(event.warning);
    },
  };
  // Of a shared engine the tab that has it sees to the download.
  const loaded = link ? client.call('load', body, call) : loadModel(client, body, call);
  try {
    const info = await withAdapter(await Promise.race([loaded, stopped]));
    if (info.load.cached) void askToPersist();
    const engine = new WorkerEngine(client, info);
    if (link) link.onreload = (again) => void withAdapter(again).then((now) => Object.assign(info, now));
    return engine;
  } catch (error) {
    // Nothing of a failed load is of use; its worker would keep memory and perhaps a download alive.
    const reason = error instanceof LamplightError ? error : new LamplightError('internal', String(error));
    if (reason.code === 'aborted') endSoon(client, loaded, reason);
    else client.close(reason);
    throw reason;
  }
}

/** Adds what only a page knows of the adapter. */
async function withAdapter(info: EngineInfo): Promise<EngineInfo> {
  if (info.backend === 'webgpu') info.adapter = (await capabilities()).adapter;
  return info;
}

let askedToPersist = false;

/** Asks the browser once not to evict the models; `models.storage()` shows what it decided. */
async function askToPersist(): Promise<void> {
  if (askedToPersist) return;
  askedToPersist = true;
  await persist();
}

/** Most workers that can be asked for. */
const MAX_THREADS = 64;

function loadBody(options: EngineOptions, source?: WireSource): Requests['load']['body'] {
  if (typeof options !== 'object' || options === null || options.model === undefined || options.model === null) {
    throw invalid('options.model is missing: give a URL, a File or a Blob', 'model');
  }
  const backend = oneOf(options.backend ?? 'auto', ['auto', 'webgpu', 'cpu'] as const, 'backend');
  const gpuPrecision = oneOf(options.gpuPrecision ?? 'auto', ['auto', 'f16', 'f32'] as const, 'gpuPrecision');
  const { contextLength } = options;
  if (contextLength !== undefined && !(Number.isSafeInteger(contextLength) && contextLength > 0)) {
    throw invalid(`contextLength must be a positive integer, not ${String(contextLength)}`, 'contextLength');
  }
  const { quantize } = options;
  if (quantize !== undefined) oneOf(quantize, ['q8_0', 'q4_0', 'q4_k'] as const, 'quantize');
  const { threads = 'auto' } = options;
  if (threads !== 'auto' && !(Number.isSafeInteger(threads) && threads >= 1 && threads <= MAX_THREADS)) {
    throw invalid(`threads must be 'auto' or a number from 1 to ${MAX_THREADS}, not ${String(threads)}`, 'threads');
  }
  return {
    source: source ?? wireSource(options.model),
    backend,
    gpuPrecision,
    contextLength,
    quantize,
    threads: threads === 'auto' ? undefined : threads,
    cache: options.cache ?? true,
    evict: options.evict ?? false,
  };
}

/** What is asked of a worker to load a model, with all addresses looked up. */
export async function loadRequest(options: EngineOptions): Promise<Requests['load']['body']> {
  const model = options?.model;
  if (isDirectory(model)) return loadBody(options, await directorySource(model));
  if (isManifest(model)) return loadBody(options, releaseSource(await latest(model, options.signal), model.headers));
  const address = hubAddress(model);
  const body = loadBody(options);
  return address ? resolved(options, body, address) : body;
}

/** The same for a model of a hub. */
async function resolved(
  options: EngineOptions, body: Requests['load']['body'], address: HubAddress,
): Promise<Requests['load']['body']> {
  const { signal, hub = DEFAULT_HUB, hubToken: token } = options;
  const stored = body.cache ? await listStored(options).catch(() => []) : [];
  const state = body.cache ? await storageState() : undefined;
  try {
    const source = await resolveHub(address, {
      hub: absolute(hub).replace(/\/+$/, ''), token, stored, signal,
      budget: roomForModel(body.backend, state && state.quotaBytes - state.usageBytes),
    });
    return { ...body, source };
  } catch (error) {
    throw signal?.aborted ? abortedError(signal) : error;
  }
}

function wireSource(model: EngineOptions['model']): WireSource {
  if (typeof Blob !== 'undefined' && model instanceof Blob) {
    return { kind: 'blob', blob: model, name: 'name' in model ? String(model.name) : undefined };
  }
  if (isUrl(model)) return urlSource({ url: model });
  if (Array.isArray(model)) {
    if (model.length > 0 && model.every(isUrl)) return urlSource({ url: model });
    const files = (model as readonly File[]).map((file) => ({ name: file.name, blob: file }));
    if (files.length === 0 || !files.every(({ name, blob }) => typeof name === 'string' && blob instanceof Blob)) {
      throw invalid('a list as options.model needs the Files or the URLs of one model', 'model');
    }
    return { kind: 'files', files };
  }
  const remote = model as RemoteModel;
  const { url } = remote;
  if (!isUrl(url) && !(Array.isArray(url) && url.length > 0 && url.every(isUrl))) {
    throw invalid('options.model is neither a URL, a File, a Blob, a list of these nor { url }', 'model');
  }
  return urlSource(remote);
}

function isUrl(value: unknown): value is string | URL {
  return typeof value === 'string' || value instanceof URL;
}

/** A GGUF file's URL, a folder's (one that ends with a slash, or with the name of its configuration), or those of all files. */
function urlSource(remote: RemoteModel): WireSource {
  const { cacheKey, sha256 } = remote;
  const urls = (isUrl(remote.url) ? [remote.url] : remote.url).map((url) => new URL(absolute(url)));
  const hashes = typeof sha256 === 'string' ? { [urls[0]?.pathname.split('/').pop() ?? '']: sha256 } : sha256 ?? {};
  const rest = {
    headers: { ...remote.headers }, ...(cacheKey !== undefined && { cacheKey }), ...(sha256 !== undefined && { expected: expected(hashes) }),
  };
  const [url] = urls;
  if (urls.length > 1 || url === undefined) return { kind: 'urls', files: namedUrls(urls), ...rest };
  const folder = /^(.*\/)(config\.json)?$/.exec(url.pathname)?.[1];
  if (folder === undefined) return { kind: 'url', url: url.href, ...rest };
  return { kind: 'folder', url: new URL(folder, url).href, ...rest };
}

/** What files must be, by their names. */
function expected(hashes: Record<string, string>): Record<string, WireExpected> {
  return Object.fromEntries(Object.entries(hashes).map(([name, hash]) => {
    const sha256 = String(hash).toLowerCase();
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw invalid(`${sha256} is not a SHA-256 in hex`, 'model.sha256');
    return [name, { sha256 }];
  }));
}

/** The URLs with the files' names: within the folder that holds `config.json`, where one does. */
function namedUrls(urls: URL[]): { name: string; url: string }[] {
  const folders = urls.map(({ pathname }) => /^(.*\/)config\.json$/.exec(pathname)?.[1]).filter((found) => found !== undefined);
  const folder = folders.sort((a, b) => a.length - b.length)[0];
  const files = urls.map(({ pathname, href }) => {
    const inFolder = folder !== undefined && pathname.startsWith(folder);
    const name = inFolder ? pathname.slice(folder.length) : pathname.slice(pathname.lastIndexOf('/') + 1);
    return { name: decoded(name), url: href };
  });
  const twice = files.find(({ name }, index) => files.findIndex((other) => other.name === name) !== index);
  if (twice) throw invalid(`two of the model's URLs name the file ${twice.name}`, 'model');
  return files;
}

function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** Passes progress on so that `fraction` never falls, whatever restarts below it. */
function monotonic(onProgress: ((progress: Progress) => void) | undefined): (progress: Progress) => void {
  let highest = 0;
  return (progress) => {
    highest = Math.max(highest, progress.fraction);
    onProgress?.({ ...progress, fraction: highest });
  };
}

class WorkerEngine implements Engine {
  readonly info: EngineInfo;
  readonly chat: Engine['chat'];
  readonly completions: Engine['completions'];
  readonly embeddings: Engine['embeddings'];
  readonly #client: WorkerClient;

  constructor(client: WorkerClient, info: EngineInfo) {
    this.#client = client;
    this.info = info;
    this.chat = { completions: { create: ((r: ChatRequest) => this.#chat(r)) as never } };
    this.completions = { create: ((r: CompletionRequest) => this.#complete(r)) as never };
    this.embeddings = { create: (r) => this.#embed(r) };
    // Browsers without explicit resource management have no such symbol, and a class member cannot depend on that.
    if (Symbol.asyncDispose) Object.defineProperty(this, Symbol.asyncDispose, { value: () => this.dispose() });
  }

  declare [Symbol.asyncDispose]: () => Promise<void>;

  async #chat(request: ChatRequest): Promise<ChatCompletion | ChunkStream<ChatCompletionChunk>> {
    const messages = checkMessages(request?.messages);
    const body = { ...sampling(request), messages, template_args: { ...request.template_args } };
    const base = { id: newId('chatcmpl'), created: now(), model: this.info.model.name };
    if (!request.stream) {
      const { text, finish_reason, usage } = await this.#generate('chat', body, request.signal);
      const choice = { index: 0 as const, message: { role: 'assistant' as const, content: text }, finish_reason };
      return { ...base, object: 'chat.completion', choices: [choice], usage };
    }
    const chunk = (
      delta: { role?: 'assistant'; content?: string }, finish_reason: FinishReason | null, usage?: Usage,
    ): ChatCompletionChunk => ({
      ...base, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason }], ...(usage && { usage }),
    });
    return this.#stream<ChatCompletionChunk>('chat', body, request.signal, {
      first: chunk({ role: 'assistant', content: '' }, null),
      text: (content) => chunk({ content }, null),
      last: (reason, usage) => chunk({}, reason, usage),
    });
  }

  async #complete(request: CompletionRequest): Promise<Completion | ChunkStream<Completion>> {
    const prompt = typeof request?.prompt === 'string' ? request.prompt : Array.from(tokenIds(request?.prompt, 'prompt'));
    const body = { ...sampling(request), prompt };
    const base = { id: newId('cmpl'), object: 'text_completion' as const, created: now(), model: this.info.model.name };
    const make = (text: string, finish_reason: FinishReason | null, usage?: Usage): Completion => ({
      ...base, choices: [{ index: 0, text, finish_reason }], ...(usage && { usage }),
    });
    if (!request.stream) {
      const { text, finish_reason, usage } = await this.#generate('complete', body, request.signal);
      return make(text, finish_reason, usage);
    }
    return this.#stream<Completion>('complete', body, request.signal, {
      text: (text) => make(text, null),
      last: (reason, usage) => make('', reason, usage),
    });
  }

  async #embed(request: EmbeddingRequest): Promise<EmbeddingResponse> {
    const input = typeof request?.input === 'string' ? [request.input] : request?.input;
    if (!Array.isArray(input) || !input.every((text) => typeof text === 'string')) {
      throw invalid('input must be a string or an array of strings', 'input');
    }
    const { dimensions, signal } = request;
    const { vectors, promptTokens } = await this.#client.call('embed', { input, dimensions }, { signal });
    const width = vectors.length / Math.max(input.length, 1);
    const data = input.map((_, index) => ({
      object: 'embedding' as const, index, embedding: vectors.subarray(index * width, (index + 1) * width),
    }));
    const usage = { prompt_tokens: promptTokens, total_tokens: promptTokens };
    return { object: 'list', model: this.info.model.name, data, usage };
  }

  async #generate<T extends 'chat' | 'complete'>(
    type: T, body: Requests[T]['body'], signal: AbortSignal | undefined,
  ): Promise<Outcome> {
    const outcome = await this.#client.call(type, body, { signal });
    if (outcome.finish_reason === 'abort') throw abortedError(signal);
    return outcome;
  }

  /** Resolves when the request's turn has come and its arguments were found good, so that bad ones reject here. */
  async #stream<T>(
    type: 'chat' | 'complete', body: Requests['chat']['body'] | Requests['complete']['body'],
    signal: AbortSignal | undefined,
    chunks: { first?: T; text: (text: string) => T; last: (reason: FinishReason, usage: Usage) => T },
  ): Promise<ChunkStream<T>> {
    // Two reasons to stop, one signal: the caller's own, and a reader who left the loop.
    const stop = new AbortController();
    const onAbort = () => stop.abort(signal?.reason);
    if (signal?.aborted) throw abortedError(signal);
    signal?.addEventListener('abort', onAbort, { once: true });
    const { stream, sink } = chunkStream<T>(() => stop.abort());
    return new Promise((resolve, reject) => {
      let started = false;
      const start = () => {
        if (started) return;
        started = true;
        if (chunks.first) sink.push(chunks.first);
        resolve(stream);
      };
      const onEvent = (event: WorkerEvent) => {
        if (event.kind === 'started') start();
        else if (event.kind === 'text') sink.push(chunks.text(event.text));
      };
      this.#client.call(type, body as Requests['chat']['body'], { signal: stop.signal, onEvent }).then(
        (outcome) => {
          start();
          finish(sink, chunks.last(outcome.finish_reason, outcome.usage));
        },
        (error: unknown) => (started ? sink.fail(error) : reject(error)),
      ).finally(() => signal?.removeEventListener('abort', onAbort));
    });
  }

  async tokenize(text: string, options: { addSpecial?: boolean; parseSpecial?: boolean } = {}): Promise<Uint32Array> {
    if (typeof text !== 'string') throw invalid('tokenize needs a string', 'text');
    const { addSpecial = false, parseSpecial = false } = options;
    return this.#client.call('tokenize', { text, addSpecial, parseSpecial });
  }

  async detokenize(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): Promise<string> {
    return this.#client.call('detokenize', { ids: tokenIds(ids, 'ids'), skipSpecial: options.skipSpecial ?? false });
  }

  async applyChatTemplate(
    messages: ChatMessage[], options: { addGenerationPrompt?: boolean; templateArgs?: Record<string, unknown> } = {},
  ): Promise<{ text: string; ids: Uint32Array }> {
    return this.#client.call('template', {
      messages: checkMessages(messages),
      addGenerationPrompt: options.addGenerationPrompt ?? true,
      templateArgs: { ...options.templateArgs },
    });
  }

  async forward(
    ids: ArrayLike<number>, options: { all?: boolean; signal?: AbortSignal } = {},
  ): Promise<{ logits: Float32Array; nVocab: number }> {
    const call: CallOptions = { signal: options.signal };
    return this.#client.call('forward', { ids: tokenIds(ids, 'ids'), all: options.all ?? false }, call);
  }

  async loadAdapter(
    source: AdapterSource, options: { scale?: number; signal?: AbortSignal } = {},
  ): Promise<number> {
    const { scale = 1, signal } = options;
    const parts = isPeft(source)
      ? { config: await bytesOf(source.config, 'config', signal), tensors: await bytesOf(source.tensors, 'tensors', signal) }
      : { gguf: await bytesOf(source, 'source', signal) };
    return this.#client.call('loadAdapter', { ...parts, scale }, { signal });
  }

  async removeAdapter(id: number): Promise<void> {
    await this.#client.call('removeAdapter', { id });
  }

  async setAdapters(adapters: { id: number; scale: number }[]): Promise<void> {
    if (!Array.isArray(adapters)) throw invalid('setAdapters needs an array of { id, scale }', 'adapters');
    await this.#client.call('setAdapters', { scales: adapters.map(({ id, scale }) => [id, scale]) });
  }

  async dispose(): Promise<void> {
    this.#client.close(new LamplightError('disposed', 'the engine was disposed; create a new one'));
  }
}

function isPeft(source: AdapterSource): source is { config: AdapterPart; tensors: AdapterPart } {
  return typeof source === 'object' && source !== null && 'config' in source && 'tensors' in source;
}

/** What is in a file of an adapter; adapters are small enough to be held whole. */
async function bytesOf(part: AdapterPart, field: string, signal: AbortSignal | undefined): Promise<Uint8Array> {
  if (part instanceof Uint8Array) return part;
  if (part instanceof ArrayBuffer) return new Uint8Array(part);
  if (part instanceof Blob) return new Uint8Array(await part.arrayBuffer());
  if (typeof part !== 'string' && !(part instanceof URL)) {
    throw invalid('a file of an adapter is neither a URL, a Blob nor bytes', field);
  }
  let response: Response;
  try {
    response = await fetch(part, { signal: signal ?? null });
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    if (signal?.aborted) throw abortedError(signal);
    const error = new LamplightError('network', `the adapter could not be fetched from ${String(part)}`, field);
    error.cause = cause;
    throw error;
  }
  throw new LamplightError('http-status', `${String(part)} answered with status ${response.status}`, field);
}

function finish<T>(sink: ChunkSink<T>, last: T): void {
  sink.push(last);
  sink.end();
}

/** The settings that the worker knows; everything else in a request (such as `model`) is left behind. */
function sampling(options: SamplingOptions): WireSampling {
  const numbers = [
    'temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'presence_penalty', 'frequency_penalty', 'seed',
    'max_tokens',
  ] as const;
  const wire: WireSampling = {};
  for (const name of numbers) {
    // Some OpenAI clients write null for "default".
    const value = options[name] ?? undefined;
    if (value === undefined) continue;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw invalid(`${name} must be a number`, name);
    wire[name] = value;
  }
  if (options.stop !== undefined && options.stop !== null) {
    wire.stop = typeof options.stop === 'string' ? [options.stop] : Array.from(options.stop);
    if (!wire.stop.every((s) => typeof s === 'string')) throw invalid('stop must be strings', 'stop');
  }
  if (options.stop_token_ids) wire.stop_token_ids = Array.from(tokenIds(options.stop_token_ids, 'stop_token_ids'));
  return wire;
}

function checkMessages(messages: ChatMessage[] | undefined): ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw invalid('messages must be an array with at least one message', 'messages');
  }
  return messages.map((message, index) => {
    const { role, content, tool_calls: calls } = message ?? {};
    const at = `messages[${index}]`;
    if (typeof role !== 'string') throw invalid('a message needs a role', `${at}.role`);
    if (calls !== undefined && !Array.isArray(calls)) throw invalid('tool calls must be an array', `${at}.tool_calls`);
    const silent = (content === null || content === undefined) && calls !== undefined;
    if (typeof content !== 'string' && !silent) throw invalid('the content must be a string', `${at}.content`);
    const wire: ChatMessage = { role, content: content ?? '' };
    for (const key of ['name', 'tool_call_id', 'reasoning_content', 'thinking'] as const) {
      if (message[key] !== undefined) wire[key] = String(message[key]);
    }
    if (calls !== undefined) wire.tool_calls = calls;
    return wire;
  });
}

function tokenIds(ids: ArrayLike<number> | undefined, field: string): Uint32Array {
  if (typeof ids !== 'object' || ids === null || typeof ids.length !== 'number') {
    throw invalid(`${field} must be ${field === 'prompt' ? 'a string or ' : ''}an array of token ids`, field);
  }
  return Uint32Array.from(ids, (id, index) => {
    if (Number.isInteger(id) && id >= 0 && id <= 0xffffffff) return id;
    throw invalid(`${String(id)} is not a token id`, `${field}[${index}]`);
  });
}

function oneOf<T extends string>(value: string, allowed: readonly T[], field: string): T {
  const found = allowed.find((name) => name === value);
  if (found === undefined) throw invalid(`${field} must be one of ${allowed.join(', ')}, not ${String(value)}`, field);
  return found;
}

function invalid(message: string, field: string): LamplightError {
  return new LamplightError('invalid-request', message, field);
}

/** Ids only tell requests apart; they are no secrets. */
function newId(prefix: string): string {
  return `${prefix}-${Math.random().toString(36).slice(2, 12)}`;
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}
