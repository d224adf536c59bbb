/** `createEngine` and the `Engine` it gives: OpenAI's request shapes on top of the worker's messages. */
import { capabilities } from './capabilities.js';
import { WorkerClient, abortedError, type CallOptions, type WorkerLike } from './client.js';
import { chatLogprobs, chatTop, completionLogprobs, completionTop } from './logprobs.js';
import { endUnlessDone, loadCall, loadModel, modelName } from './download.js';
import { activate, isManifest, latest, type Release } from './manifest.js';
import { createModelCache } from './models.js';
import type { Outcome, Requests, WireLogprob, WireSampling, WorkerEvent } from './protocol.js';
import { invalid, loadRequest } from './request.js';
import { persistOnce } from './storage.js';
import { chunkStream, type ChunkSink } from './stream.js';
import { SharedWorkerLink, canShare } from './tabs.js';
import {
  LamplightError,
  type AdapterPart, type AdapterSource, type ChatCompletion, type ChatCompletionChunk, type ChatMessage, type ChatRequest, type ChunkStream, type Completion,
  type CompletionRequest, type EmbeddingRequest, type EmbeddingResponse, type Engine, type EngineInfo, type EngineOptions, type FinishReason,
  type SamplingOptions, type Usage,
} from './types.js';

/** Starts a worker, loads the model into it, and gives the engine. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const model = options?.model;
  return isManifest(model) ? loadRelease(options, await latest(model, options.signal)) : loadEngine(options);
}

/** Loads a release of a model; the one before where it does not load. */
async function loadRelease(options: EngineOptions, release: Release): Promise<Engine> {
  try {
    const engine = await loadEngine(options, undefined, release);
    const isOutdated = activate(release);
    if (isOutdated) void removeOld(options, isOutdated).catch(() => undefined);
    return engine;
  } catch (error) {
    const { fallback, url, manifest } = release;
    if (!fallback || !(error instanceof LamplightError) || error.code === 'aborted') throw error;
    const message = `release ${manifest.version} does not load (${error.message}); release ${fallback.version} is used`;
    const warning = { code: error.code, message };
    options.onWarning?.(warning);
    const engine = await loadRelease(options, { url, manifest: fallback, fallback: undefined });
    engine.info.warnings.unshift(warning);
    return engine;
  }
}

/** Removes the releases before the last two. */
async function removeOld(options: EngineOptions, isOutdated: (key: string) => boolean): Promise<void> {
  const cache = createModelCache(options);
  for (const { key } of await cache.list()) if (isOutdated(key)) await cache.delete(key);
}

/** `createEngine` with the worker given (tests bring their own); of a model by its manifest, the release. */
export async function loadEngine(options: EngineOptions, worker?: WorkerLike, release?: Release): Promise<Engine> {
  const call = loadCall(options ?? {});
  const { signal } = call;
  // The worker that is asked what is stored is the one that loads.
  let own: WorkerClient | undefined;
  const start = () => own ??= new WorkerClient(options, worker);
  try {
    const body = await loadRequest(options, () => start().call('models', {}, { signal }), release);
    if (signal?.aborted) throw abortedError(signal);
    const take = () => {
      const taken = start();
      own = undefined;
      return taken;
    };
    const link = options.shared && !worker && canShare() ? new SharedWorkerLink(body, take) : undefined;
    const client = link ? new WorkerClient(options, link) : take();
    // Of a shared engine the tab that has it sees to the download.
    const loaded = link ? client.call('load', body, call) : loadModel(client, body, call);
    const info = await described(await endUnlessDone(client, loaded, signal), body);
    if (info.load.cached) void persistOnce();
    if (link) link.onreload = (again) => void described(again, body).then((now) => Object.assign(info, now));
    return new WorkerEngine(client, info);
  } finally {
    // The tab that has the engine loads it; a later one of this tab's gets another worker.
    own?.close(new LamplightError('disposed', 'the worker was not needed'));
    own = undefined;
  }
}

/** Adds what only a page knows: the adapter, and what the model is called in storage. */
async function described(info: EngineInfo, { source }: Requests['load']['body']): Promise<EngineInfo> {
  if (info.backend === 'webgpu') info.adapter = (await capabilities()).adapter;
  const key = modelName(source);
  if (info.load.cached && key !== undefined) info.load.key = key;
  return info;
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
    const { exchange } = info;
    client.onthreads = (threads) => void Object.assign(info, { threads, exchange: threads > 1 ? exchange : undefined });
    this.chat = { completions: { create: ((r: ChatRequest) => this.#chat(r)) as never } };
    this.completions = { create: ((r: CompletionRequest) => this.#complete(r)) as never };
    this.embeddings = { create: (r) => this.#embed(r) };
    // Browsers without explicit resource management have no such symbol, and a class member cannot depend on that.
    if (Symbol.asyncDispose) Object.defineProperty(this, Symbol.asyncDispose, { value: () => this.dispose() });
  }

  declare [Symbol.asyncDispose]: () => Promise<void>;

  async #chat(request: ChatRequest): Promise<ChatCompletion | ChunkStream<ChatCompletionChunk>> {
    const messages = checkMessages(request?.messages);
    const body = { ...sampling(request, chatTop(request)), messages, template_args: { ...request.template_args } };
    const base = { id: newId('chatcmpl'), created: now(), model: this.info.model.name };
    if (!request.stream) {
      const { text, logprobs, finish_reason, usage } = await this.#generate('chat', body, request.signal);
      const message = { role: 'assistant' as const, content: text };
      const choice = { index: 0 as const, message, ...(logprobs && { logprobs: chatLogprobs(logprobs) }), finish_reason };
      return { ...base, object: 'chat.completion', choices: [choice], usage };
    }
    const chunk = (
      delta: { role?: 'assistant'; content?: string }, finish_reason: FinishReason | null, usage?: Usage,
      logprobs?: WireLogprob[],
    ): ChatCompletionChunk => ({
      ...base, object: 'chat.completion.chunk',
      choices: [{ index: 0, delta, ...(logprobs && { logprobs: chatLogprobs(logprobs) }), finish_reason }],
      ...(usage && { usage }),
    });
    return this.#stream<ChatCompletionChunk>('chat', body, request.signal, {
      first: chunk({ role: 'assistant', content: '' }, null),
      text: (content, logprobs) => chunk({ content }, null, undefined, logprobs),
      last: (reason, usage) => chunk({}, reason, usage),
    });
  }

  async #complete(request: CompletionRequest): Promise<Completion | ChunkStream<Completion>> {
    const prompt = typeof request?.prompt === 'string' ? request.prompt : Array.from(tokenIds(request?.prompt, 'prompt'));
    const body = { ...sampling(request, completionTop(request)), prompt };
    const legacy = completionLogprobs();
    const base = { id: newId('cmpl'), object: 'text_completion' as const, created: now(), model: this.info.model.name };
    const make = (text: string, finish_reason: FinishReason | null, usage?: Usage, logprobs?: WireLogprob[]): Completion => ({
      ...base, choices: [{ index: 0, text, ...(logprobs && { logprobs: legacy(logprobs) }), finish_reason }],
      ...(usage && { usage }),
    });
    if (!request.stream) {
      const { text, logprobs, finish_reason, usage } = await this.#generate('complete', body, request.signal);
      return make(text, finish_reason, usage, logprobs);
    }
    return this.#stream<Completion>('complete', body, request.signal, {
      text: (text, logprobs) => make(text, null, undefined, logprobs),
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
    const outcome = withProfile(await this.#client.call(type, body, { signal }));
    if (outcome.finish_reason === 'abort') throw abortedError(signal);
    return outcome;
  }

  /** Resolves when the request's turn has come and its arguments were found good, so that bad ones reject here. */
  async #stream<T>(
    type: 'chat' | 'complete', body: Requests['chat']['body'] | Requests['complete']['body'],
    signal: AbortSignal | undefined,
    chunks: { first?: T; text: (text: string, logprobs?: WireLogprob[]) => T; last: (reason: FinishReason, usage: Usage) => T },
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
        else if (event.kind === 'text') sink.push(chunks.text(event.text, event.logprobs));
      };
      this.#client.call(type, body as Requests['chat']['body'], { signal: stop.signal, onEvent }).then(
        (outcome) => {
          start();
          const { finish_reason: reason, usage } = withProfile(outcome);
          finish(sink, chunks.last(reason, usage));
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

/** The profile among what the request took. */
function withProfile(outcome: Outcome): Outcome {
  if (outcome.profile) outcome.usage.profile = outcome.profile;
  return outcome;
}

function finish<T>(sink: ChunkSink<T>, last: T): void {
  sink.push(last);
  sink.end();
}

/** The settings that the worker knows; everything else in a request (such as `model`) is left behind. */
function sampling(options: SamplingOptions, top: number | undefined): WireSampling {
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
  const { logit_bias: bias, allowed_token_ids: allowed } = options;
  if (bias !== undefined && bias !== null) {
    if (typeof bias !== 'object' || Array.isArray(bias)) throw invalid('logit_bias must be an object of numbers by token id', 'logit_bias');
    wire.logit_bias = { ...bias };
  }
  if (allowed !== undefined && allowed !== null) wire.allowed_token_ids = Array.from(tokenIds(allowed, 'allowed_token_ids'));
  if (top !== undefined) wire.top_logprobs = top;
  if (options.profile) wire.profile = true;
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

/** Ids only tell requests apart; they are no secrets. */
function newId(prefix: string): string {
  return `${prefix}-${Math.random().toString(36).slice(2, 12)}`;
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}
