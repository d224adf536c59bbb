/**
 * The public types of the package: what an app passes in and gets back. No code beyond `LamplightError`.
 * The error codes are those of `src/error.rs`; a test holds the two lists equal.
 */

import type { DirectoryHandle } from './directory.js';

/** Every code an error can have. */
export type LamplightErrorCode =
  | 'not-a-model' | 'truncated' | 'malformed' | 'limit-exceeded' | 'unsupported-version' | 'unsupported-type'
  | 'unsupported-architecture' | 'unsupported-tokenizer' | 'missing-key' | 'wrong-type' | 'invalid-value'
  | 'missing-tensor' | 'wrong-shape' | 'template-error' | 'invalid-request' | 'context-length-exceeded'
  | 'aborted' | 'disposed' | 'network' | 'http-status' | 'io' | 'storage' | 'quota-exceeded' | 'integrity'
  | 'gpu-unavailable' | 'gpu-lost' | 'gpu-check-failed' | 'out-of-memory' | 'worker-failed' | 'interrupted' | 'internal';

/** The one error class of the package. */
export class LamplightError extends Error {
  override readonly name = 'LamplightError';
  constructor(
    readonly code: LamplightErrorCode,
    message: string,
    /** Path of the input field at fault, such as `tensors[3].dims[1]`. */
    readonly field?: string,
  ) {
    super(message);
  }
}

/** One URL or several, with more to say about them. */
export interface RemoteModel {
  url: string | URL | readonly (string | URL)[];
  /** Sent with every request for the model's files (for example a token of a gated repository). Never stored. */
  headers?: Record<string, string>;
  /** Key in the cache; a URL without query and fragment by default. */
  cacheKey?: string;
  /** SHA-256 of the file in hex, or of several by their names: a download that is another file is refused. */
  sha256?: string | Record<string, string>;
}

/**
 * A model by the manifest that `lamplight manifest` wrote beside its files: every part is checked, an update fetches only
 * the parts that changed, and `models.rollback` goes back to the release before.
 */
export interface ManifestModel {
  /** Where the manifest is; or of two, the one that this installation is drawn for (`percent` in a hundred for `canary`). */
  manifest: string | URL | { stable: string | URL; canary: string | URL; percent: number };
  /** An Ed25519 public key, 32 bytes in base64: the manifest must then be signed by it, in a file `<manifest>.sig` (base64). */
  publicKey?: string;
  headers?: Record<string, string>;
}

/**
 * Where a model comes from:
 * - the URL of a GGUF file; of a model in several (`name-00001-of-00003.gguf`), of any one: the others' URLs follow from it,
 *   with the same query;
 * - the URL of a folder with a Hugging Face model (it ends with a slash, or names the folder's `config.json`);
 * - the URLs of all files of the model: GGUF files, or `config.json`, tokenizer and safetensors files of a folder;
 * - `hf:owner/repo/file.gguf`, `hf:owner/repo` (a GGUF file that fits is picked, or the folder is taken), each with `@revision`
 *   behind it if wanted: files of a model hub, checked against its hashes;
 * - a manifest;
 * - a folder that the user opened, as `showDirectoryPicker` gives it;
 * - a local GGUF file, or the `File`s of a model in several files or of a folder, in any order (an input's `FileList` too).
 *
 * Relative URLs are taken from the page. What an npm package brings along is addressed from its own module:
 * `new URL('./model.gguf', import.meta.url)`, which bundlers resolve.
 */
export type ModelSource =
  | string | URL | File | Blob | RemoteModel | ManifestModel | DirectoryHandle | FileList | readonly File[]
  | readonly (string | URL)[];

/** Which backend to use. `auto` takes WebGPU when it is there and passes its self-check, else the CPU. */
export type BackendChoice = 'auto' | 'webgpu' | 'cpu';

/** One monotonic progress value over the whole load. */
export interface Progress {
  /** `waiting`: another tab downloads this model, and these are its numbers. */
  phase: 'starting' | 'waiting' | 'header' | 'downloading' | 'reading-cache' | 'checking' | 'ready';
  /** Bytes of weights in place so far, and of all. */
  loadedBytes: number;
  totalBytes: number;
  /** 0 to 1, never falling. */
  fraction: number;
  /** Of the running phase. */
  bytesPerSecond?: number;
  etaSeconds?: number;
}

/** Something went wrong that the engine could work around, such as a full disk: the model is used without the cache. */
export interface Warning {
  code: LamplightErrorCode;
  message: string;
}

/** A `TrustedScriptURL`, which not every TypeScript library knows. */
export interface TrustedUrl {
  toJSON(): string;
}

/** Where the parts of the package are, if a bundler does not find them by itself. */
export interface AssetOptions {
  /** Where `worker.js` is. It must be of the page's own origin. Under Trusted Types, a `TrustedScriptURL` of it. */
  workerUrl?: string | URL | TrustedUrl;
  /** Where `lamplight_bg.wasm` is. */
  wasmUrl?: string | URL;
}

/** Formats that weights can be turned into while they load. */
export type QuantizeChoice = 'q8_0' | 'q4_0' | 'q4_k';

/** Formats that keys and values can be kept in. */
export type KvCacheChoice = 'f32' | 'f16' | 'q8_0' | 'q4_0';

export interface EngineOptions extends AssetOptions {
  model: ModelSource;
  /** `auto` by default. */
  backend?: BackendChoice;
  /** Positions of the KV cache; the model's own limit, at most 4096, by default. */
  contextLength?: number;
  /** Texts that are kept at a time (1 by default, at most 16), each in a KV cache of its own, made when it is first needed: with 2,
   * a chat and the completions beside it each find their own beginning computed (`usage.cached_tokens` tells). A prompt takes
   * the place of the text that it goes on with, else an unused one, else that of the text used longest ago. */
  sequences?: number;
  /** `f16` where the device has it, by default; `f32` forces full precision on the GPU, in products too. */
  gpuPrecision?: 'auto' | 'f16' | 'f32';
  /** Measure on the first visit which of several ways to compute is the fastest on this GPU, which takes up to a second,
   * and remember it. By default where the GPU is not software: there the time of one run says little. */
  tune?: boolean;
  /** Turn F32, F16 and BF16 weights into this format as they arrive, so that an unquantised model fits; their own by
   * default. What is stored in IndexedDB is the file as it is. */
  quantize?: QuantizeChoice;
  /** What the keys and values of the context are kept in; `f16` (`f32` on a GPU without half floats) by default. `q8_0` takes
   * about half the room of `f16` (of SmolLM2-135M, the likeliest token stays in 99 of 100 places), `q4_0` a third (in 80 of 100). */
  kvCache?: KvCacheChoice;
  /**
   * Use one engine together with every tab of the origin that asks for the same model with the same settings (default
   * false). It runs in one of the tabs; when that is closed or crashes, another loads the model and goes on with what was
   * being written. Requests of all tabs take turns. Not for `File`s, and without `loadAdapter` and its kin. Where the browser
   * has no Web Locks (insecure pages) each tab has an engine of its own.
   */
  shared?: boolean;
  /** Workers that compute on the CPU path, each with its own rows of the weights: as many as are worth it by default, found by
   * measuring, at most 8. They need no cross-origin isolation, but exchange faster with it. */
  threads?: number | 'auto';
  /** Keep the weights in IndexedDB (default true). `File` and `Blob` models are not cached. */
  cache?: boolean;
  /**
   * Asked for another address of a file when its server answers 401, 403, 404 or 410, at the beginning or midway: signed
   * links run out. The load goes on from the byte where it was, with the address that this gives; where it throws, or what it
   * gives is refused three times in a row, the load fails. Files keep the key in storage that their first address gave them.
   */
  resolveUrl?: (url: string, reason: { status: number }) => string | URL | Promise<string | URL>;
  /** Where `hf:` addresses are looked up: any host that speaks the hub's API; https://huggingface.co by default. */
  hub?: string | URL;
  /** For gated repositories. Sent to the hub only, and stored nowhere. */
  hubToken?: string;
  /** Where storage is too full, remove the models that were used least recently (pinned ones stay) to make room for this
   * one. False by default: then a model that does not fit is used without being kept, and a warning says so. */
  evict?: boolean;
  onProgress?: (progress: Progress) => void;
  /** Called for what could be worked around; the same warnings are in `EngineInfo.warnings`. */
  onWarning?: (warning: Warning) => void;
  /** Stops the load; `createEngine` then rejects with the code `aborted`. */
  signal?: AbortSignal;
}

/** What of `EngineOptions` has to do with a download. */
export type DownloadOptions = Pick<EngineOptions, 'backend' | 'hub' | 'hubToken' | 'evict' | 'resolveUrl' | 'onProgress' | 'onWarning' | 'signal'>;

/** What `auto` found and chose, and the facts of the loaded model. */
export interface EngineInfo {
  backend: 'webgpu' | 'cpu';
  /** One sentence: why this backend. */
  backendReason: string;
  /** Workers that compute. Of `threads: 'auto'` it changes after a request for which another number was faster. */
  threads: number;
  /** How they exchange what they have computed, where they are several: through shared memory where the page is
   * cross-origin isolated. */
  exchange?: 'shared' | 'messages';
  model: {
    name: string;
    architecture: string;
    nParams: number;
    nLayers: number;
    nVocab: number;
    nEmbd: number;
    fileBytes: number;
    /** Storage formats and their bytes, such as `{ q4_1: 66355200 }`. */
    formats: Record<string, number>;
    contextLengthTrained: number;
    hasChatTemplate: boolean;
    /** Whether the model gives embeddings instead of text. */
    isEmbedder: boolean;
    /** The licence that the file states, and where it says its text is. Unchecked: the file's author wrote both. */
    license?: string;
    licenseLink?: string;
  };
  contextLength: number;
  adapter?: AdapterInfo;
  /** What was found of the GPU that runs the model. */
  gpu?: GpuFacts;
  /** Bytes the backend holds, and the size of the wasm memory once the model was loaded; of all workers together. The
   * KV cache grows by 512 positions as texts do, up to what `fit` tells. */
  memory: { backendBytes: number; wasmBytes: number };
  load: {
    /** True when no byte of weights came over the network. */
    fromCache: boolean;
    /** Whether the weights are kept in this browser now. */
    cached: boolean;
    /** Where new weights are kept. */
    store?: PartStore['store'];
    /** What the model is called in `models` then. */
    key?: string;
    seconds: number;
    /** Of these, milliseconds after the last weight was in place. With a first request's `ttft_ms` the time from there to the first token. */
    readyMs: number;
    /** Bytes received over the network. */
    networkBytes: number;
  };
  warnings: Warning[];
  version: string;
}

/** Before anything was loaded, a small model of the same kind went through every kernel and was compared with the CPU. */
export interface GpuFacts {
  /** How many kernels were compared, and how long it took with their compilation. */
  kernels: number;
  milliseconds: number;
  /** What was wrong and is done in another way, in words. */
  replaced?: string;
  /** Whether kernels use subgroups. */
  subgroups: boolean;
  /** What was found to be fastest on this adapter, now or on an earlier visit (see `EngineOptions.tune`): its number, its
   * names, and of each way that was measured the microseconds of a product. */
  tuned?: string;
}

export interface AdapterInfo {
  vendor: string;
  architecture: string;
  description: string;
  isFallback: boolean;
  f16: boolean;
  subgroups: boolean;
  limits: {
    maxBufferSize: number;
    maxStorageBufferBindingSize: number;
    maxComputeWorkgroupStorageSize: number;
    maxComputeInvocationsPerWorkgroup: number;
    maxStorageBuffersPerShaderStage: number;
  };
}

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  /** May be null or absent in a message that has tool calls. */
  content?: string | null;
  /** The speaker's name, or the name of the tool that answers. */
  name?: string;
  /** The calls that an assistant's message makes. Most models' templates want `arguments` as an object. */
  tool_calls?: ToolCall[];
  /** Which call a tool's message answers. */
  tool_call_id?: string;
  /** What the assistant thought before it spoke, for templates that show it. */
  reasoning_content?: string;
  /** The same under the name that gpt-oss gives it. */
  thinking?: string;
}

export interface ToolCall {
  id?: string;
  type?: 'function';
  function: { name: string; arguments: Record<string, unknown> | string };
}

/** Sampling settings, in OpenAI's spelling plus the field's usual additions. */
export interface SamplingOptions {
  /** 0 is greedy; default 1. */
  temperature?: number;
  top_p?: number;
  /** 0 switches it off (default). */
  top_k?: number;
  min_p?: number;
  /** 1 switches it off (default); over the last 64 tokens. */
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  /** Added to the logits of tokens, by their ids, before the penalties: from -100 (all but never) to 100; at most 1024. */
  logit_bias?: Record<number, number>;
  /** The only tokens that may come. One that ends the text must be among them to come, or the text goes on to `max_tokens`. */
  allowed_token_ids?: ArrayLike<number>;
  /** Same seed, same text. */
  seed?: number;
  stop?: string | string[];
  /** Extra token ids that end the text. */
  stop_token_ids?: number[];
  max_tokens?: number;
  /**
   * Tell in `usage.profile` where the time went, kernel by kernel, for people who make it faster; the request takes longer.
   */
  profile?: boolean;
  /**
   * Stops the request within 200 ms. A stream then ends with a last chunk whose `finish_reason` is `abort`; a request
   * without `stream`, or one that was still waiting for its turn, rejects with the code `aborted`.
   */
  signal?: AbortSignal;
}

export interface ChatRequest extends SamplingOptions {
  messages: ChatMessage[];
  stream?: boolean;
  /** Tell how probable each token was, by the model alone: before bias, penalties and temperature. */
  logprobs?: boolean;
  /** So many of the most probable tokens in each place too, at most 20. Needs `logprobs`. */
  top_logprobs?: number;
  /** Extra variables of the chat template, such as `enable_thinking` or `tools`. */
  template_args?: Record<string, unknown>;
}

export interface CompletionRequest extends SamplingOptions {
  prompt: string | number[];
  stream?: boolean;
  /** Tell how probable each token was, and so many of the most probable ones in its place, 0 to 20: as in a chat. */
  logprobs?: number;
}

export interface EmbeddingRequest {
  input: string | string[];
  /** Keeps so many leading elements of each vector, for models trained to allow it; all by default. */
  dimensions?: number;
  signal?: AbortSignal;
}

export interface EmbeddingResponse {
  object: 'list';
  model: string;
  data: { object: 'embedding'; index: number; embedding: Float32Array }[];
  usage: { prompt_tokens: number; total_tokens: number };
}

export type FinishReason = 'stop' | 'length' | 'abort';

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Prompt tokens that were still in the KV cache. */
  cached_tokens: number;
  timings: {
    ttft_ms: number;
    prefill_tok_s: number;
    decode_tok_s: number;
  };
  /** What the backend did for the request: all but `steps` are 0 on the CPU. */
  work: {
    steps: number;
    dispatches: number;
    passes: number;
    submits: number;
    queue_writes: number;
    bind_groups: number;
    buffers: number;
    readback_bytes: number;
    /** CPU time spent recording and submitting, in microseconds. */
    encode_us: number;
  };
  /** Where the time went, if that was asked for. */
  profile?: Profile;
}

/** Where the time of a request went: on WebGPU all of it, on the CPU its decoded tokens, as one of its workers saw them. */
export interface Profile {
  /** What took longest first. */
  kernels: KernelTime[];
  /** What memory can do: bytes that copies of large buffers read and write a second. */
  bytesPerSecond?: number;
  /** The browser rounds each time to so many milliseconds; sums of many calls are right nevertheless. */
  roundedTo?: number;
  /** Why there are no times. */
  missing?: string;
}

export interface KernelTime {
  /** A kernel with its weight format, or on the CPU a kind of op, such as `attn_q`. */
  name: string;
  calls: number;
  /** Of all calls. */
  ms: number;
  /** Of weights (and on the CPU the KV cache) that they read, where that is known; of experts and token tables it is not. */
  bytes: number;
  /** Those bytes in that time as a share of what memory can do. */
  share?: number;
}

/** A token: its text (U+FFFD where it is a part of a character) and its bytes, and the natural logarithm of its probability,
 * at least -9999. */
export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
}

/** The tokens that the content is of, neither those that ended it nor those of a stop string. In a stream a token comes with
 * the chunk in which its text begins. */
export interface ChatLogprobs {
  content: (TokenLogprob & { top_logprobs: TokenLogprob[] })[];
  refusal: null;
}

/** The same in the shape of the older completions API. */
export interface CompletionLogprobs {
  /** Parts of characters as `bytes:\xe2\x98`. */
  tokens: string[];
  token_logprobs: number[];
  /** By tokens: the most probable ones, and the one that came. */
  top_logprobs: Record<string, number>[];
  /** Where in the text each begins. */
  text_offset: number[];
}

export interface ChatCompletion {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: [{ index: 0; message: { role: 'assistant'; content: string }; logprobs?: ChatLogprobs; finish_reason: FinishReason }];
  usage: Usage;
}

export interface ChatCompletionChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: [{
    index: 0;
    delta: { role?: 'assistant'; content?: string };
    logprobs?: ChatLogprobs;
    finish_reason: FinishReason | null;
  }];
  /** On the last chunk. */
  usage?: Usage;
}

export interface Completion {
  id: string;
  object: 'text_completion';
  created: number;
  model: string;
  choices: [{ index: 0; text: string; logprobs?: CompletionLogprobs; finish_reason: FinishReason | null }];
  usage?: Usage;
}

/** A stream of chunks: iterate it (leaving the loop cancels), or read it as a `ReadableStream`. */
export type ChunkStream<T> = AsyncIterable<T> & ReadableStream<T>;

export interface CachedModel {
  /** Key in the cache. */
  key: string;
  name: string;
  /** Where it came from; of a model in several files, the first one's address, or the folder's. */
  url: string;
  bytesStored: number;
  bytesTotal: number;
  complete: boolean;
  /** Not removed by itself when room is needed for another model. */
  pinned: boolean;
  /** The last load ended as it should; if not, every part is checked at the next one. */
  clean: boolean;
  /** Milliseconds since 1970. */
  lastUsed: number;
}

/** A file: where it is, or what is in it. */
export type AdapterPart = string | URL | Blob | ArrayBuffer | Uint8Array;

/** A LoRA adapter: a GGUF file, or `adapter_config.json` and `adapter_model.safetensors` of a PEFT folder. */
export type AdapterSource = AdapterPart | { config: AdapterPart; tensors: AdapterPart };

export interface Engine extends AsyncDisposable {
  readonly info: EngineInfo;
  readonly chat: {
    readonly completions: {
      create(request: ChatRequest & { stream: true }): Promise<ChunkStream<ChatCompletionChunk>>;
      create(request: ChatRequest & { stream?: false }): Promise<ChatCompletion>;
      create(request: ChatRequest): Promise<ChatCompletion | ChunkStream<ChatCompletionChunk>>;
    };
  };
  readonly completions: {
    create(request: CompletionRequest & { stream: true }): Promise<ChunkStream<Completion>>;
    create(request: CompletionRequest & { stream?: false }): Promise<Completion>;
    create(request: CompletionRequest): Promise<Completion | ChunkStream<Completion>>;
  };
  /** Vectors of texts, for search and comparison; needs an embedding model. */
  readonly embeddings: { create(request: EmbeddingRequest): Promise<EmbeddingResponse> };
  /** Token ids of a text. Special tokens in the text stay text unless `parseSpecial` is set. */
  tokenize(text: string, options?: { addSpecial?: boolean; parseSpecial?: boolean }): Promise<Uint32Array>;
  detokenize(ids: ArrayLike<number>, options?: { skipSpecial?: boolean }): Promise<string>;
  applyChatTemplate(
    messages: ChatMessage[],
    options?: { addGenerationPrompt?: boolean; templateArgs?: Record<string, unknown> },
  ): Promise<{ text: string; ids: Uint32Array }>;
  /** Logits after the last token (or every token) of `ids`, computed from position 0. */
  forward(
    ids: ArrayLike<number>,
    options?: { all?: boolean; signal?: AbortSignal },
  ): Promise<{ logits: Float32Array; nVocab: number }>;
  /**
   * Loads a LoRA adapter and uses it, times `scale` (1 by default), together with those loaded before. The model's own
   * weights stay as they are. Resolves to a number that names the adapter.
   */
  loadAdapter(source: AdapterSource, options?: { scale?: number; signal?: AbortSignal }): Promise<number>;
  /** Takes an adapter away and frees it. */
  removeAdapter(id: number): Promise<void>;
  /** Sets the factors of loaded adapters; those not named stay loaded and are not used. */
  setAdapters(adapters: { id: number; scale: number }[]): Promise<void>;
  dispose(): Promise<void>;
}

/** Whether a model fits, with the numbers. */
export interface Fit {
  /** `tight`: it should run, but close to what there is, or without being kept. */
  verdict: 'fits' | 'tight' | 'no';
  /** Why it does not simply fit, and what would help, the least change first. */
  reasons: string[];
  suggestions: string[];
  /** Memory of the backend: exact, from the model's header and the context. */
  totalBytes: number;
  weightBytes: number;
  kvBytes: number;
  workspaceBytes: number;
  /** What can be had of that, where it is known; GPUs do not tell. */
  memoryBytes?: number;
  /** What is not stored yet, and the room to store it. */
  downloadBytes: number;
  storageRoomBytes?: number;
  backend: 'webgpu' | 'cpu';
  backendReason: string;
  contextLength: number;
  model: EngineInfo['model'];
}

/** The models kept in this browser. */
export interface ModelCache {
  /** The one used last comes first. */
  list(): Promise<CachedModel[]>;
  /** Bytes used by all models. */
  size(): Promise<number>;
  /**
   * Downloads a model into storage, in the background, and makes no engine of it: a later `createEngine` finds it there. However
   * many tabs ask, one of them downloads. To pause, abort by `signal`: what has arrived stays, and the next call goes on from there.
   * Rejects where storage cannot keep the model.
   */
  download(model: ModelSource, options?: DownloadOptions): Promise<CachedModel>;
  delete(key: string): Promise<void>;
  /**
   * Reads every stored part and compares its SHA-256. Bad parts are removed, and fetched again by the next load.
   * Resolves to how many parts there were, and how many of them were bad.
   */
  verify(key: string): Promise<{ parts: number; bad: number }>;
  /** Keeps a model from being removed when room is needed (the option `evict`), or no longer. */
  pin(key: string, pinned?: boolean): Promise<void>;
  /** A stored model as one archive, with its parts' hashes; for `import` in another browser. */
  export(key: string): Promise<Blob>;
  /** Stores what `export` gave, after a check of every part. Resolves to the model's key. */
  import(archive: Blob): Promise<string>;
  /** Goes back to the release before of a model by its manifest, at this and later loads. Resolves to its version. */
  rollback(model: ManifestModel): Promise<string>;
  /** The version that the server has, if it is not the one that was loaded last. */
  checkUpdate(model: ManifestModel): Promise<string | undefined>;
  /**
   * Downloads that version in the background, of which only the parts that changed are fetched. Resolves to it once it is ready: the
   * next `createEngine` loads it, and keeps the one before until it has loaded and passed its check. Resolves to `undefined` where
   * there is nothing new.
   */
  update(model: ManifestModel, options?: DownloadOptions): Promise<string | undefined>;
  /** What the browser gives this site; `undefined` where it does not say. */
  storage(): Promise<StorageState | undefined>;
  /** Asks the browser not to evict the models when space runs short; some show a prompt. Resolves to what it decided. */
  persist(): Promise<boolean>;
}

/** What a browser gives a site, and whether it may take it back. */
export interface StorageState {
  usageBytes: number;
  quotaBytes: number;
  /** False: the browser may remove everything when the disk is nearly full. */
  persisted: boolean;
  /** Where weights are kept, and how fast that was found to be; of `models.storage()`, once a model has been kept. */
  parts?: PartStore;
}

/** Where the bytes of weights are kept: in files of the origin (OPFS) where these were measured to be clearly faster. */
export interface PartStore {
  store: 'indexeddb' | 'opfs' | 'arrays';
  /** MB a second, when the first model was kept in this browser. */
  indexedDb?: { write: number; read: number };
  opfs?: { write: number; read: number };
}

/** What this browser offers, without loading a model. */
export interface Capabilities {
  webgpu: boolean;
  /** Why not, when `webgpu` is false. */
  webgpuReason?: string;
  adapter?: AdapterInfo;
  simd: boolean;
  crossOriginIsolated: boolean;
  hardwareConcurrency: number;
  deviceMemoryGiB?: number;
  storage?: StorageState;
}
