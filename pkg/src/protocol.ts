/**
 * What page and worker say to each other: plain objects inside the envelope of the gloo-worker actor that the wasm core
 * is. `src/web/protocol.rs` is the other side of it; a change here is a change there, and of `PROTOCOL_VERSION`.
 */
import type {
  BackendChoice, CachedModel, ChatMessage, EngineInfo, FinishReason, KvCacheChoice, LamplightErrorCode, PartStore, Profile, Progress,
  QuantizeChoice, Usage, Warning,
} from './types.js';

/** Sent with every request; the worker refuses any other. */
export const PROTOCOL_VERSION = 1;

/** The one bridge that a page opens to its worker (gloo counts them). */
export const HANDLER_ID = 0;

/** What a file must be. */
export interface WireExpected {
  /** Of the whole file. */
  sha256?: string;
  /** Of each part of 16 MiB, up to the end of the last tensor, which is `dataEnd`. */
  parts?: string[];
  dataEnd?: number;
}

interface WireRemote {
  headers: Record<string, string>;
  cacheKey?: string;
  /** By the files' names, as they stand in their URLs. */
  expected?: Record<string, WireExpected>;
}

export type WireSource =
  /** The file, or the folder, at a URL; a folder's ends with a slash. */
  | { kind: 'url' | 'folder'; url: string } & WireRemote
  /** Files by the names that they have in their folder. */
  | { kind: 'urls'; files: { name: string; url: string }[] } & WireRemote
  | { kind: 'blob'; blob: Blob; name?: string }
  | { kind: 'files'; files: { name: string; blob: Blob }[] };

/** `SamplingOptions` without the page-side parts; absent fields take the engine's defaults. */
export interface WireSampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  /** Keys are token ids. */
  logit_bias?: Record<string, number>;
  allowed_token_ids?: number[];
  /** Tells of each token how probable it was, and so many others. */
  top_logprobs?: number;
  seed?: number;
  stop?: string[];
  stop_token_ids?: number[];
  max_tokens?: number;
  /** Tell where the time went. */
  profile?: boolean;
}

/** A token and how probable it was; `top` of drawn ones only. */
export interface WireLogprob {
  id: number;
  bytes: number[];
  logprob: number;
  top?: WireLogprob[];
}

export interface Outcome {
  text: string;
  /** Of the tokens of the text, where they were asked for. */
  logprobs?: WireLogprob[];
  finish_reason: FinishReason;
  usage: Usage;
  profile?: Profile;
}

/** What a model would take. */
export interface FitFacts {
  backend: 'webgpu' | 'cpu';
  backendReason: string;
  model: EngineInfo['model'];
  contextLength: number;
  needs: { weightBytes: number; kvBytes: number; workspaceBytes: number };
  /** Bytes of keys and values in formats that take less room. */
  smallerCaches: [KvCacheChoice, number][];
  limitBytes?: number;
  missingBytes: number;
}

/** A stored file: its record as the core keeps it, and its parts in order. */
export interface WireFile {
  record: { key: string; model: string } & Record<string, unknown>;
  parts: { index: number; len: number; sha256: string }[];
  blobs: Blob[];
}

/** Every request: what goes with it and what comes back. */
export interface Requests {
  load: {
    body: {
      source: WireSource;
      backend: BackendChoice;
      gpuPrecision: 'auto' | 'f16' | 'f32';
      /** Whether the GPU's kernels are measured on the first visit; where it is not software when absent. */
      tune?: boolean;
      contextLength?: number;
      sequences?: number;
      quantize?: QuantizeChoice;
      kvCache?: KvCacheChoice;
      /** As many as are worth it when absent. */
      threads?: number;
      cache: boolean;
      evict: boolean;
      /** Whether the page answers the event `resolve`. */
      resolves?: boolean;
    };
    result: EngineInfo;
  };
  /** Stores a model and loads none of it; the bytes that came over the network. */
  download: { body: Requests['load']['body']; result: number };
  /** Reads the header and no weights. */
  fit: { body: Requests['load']['body']; result: FitFacts };
  chat: {
    body: WireSampling & { messages: ChatMessage[]; template_args: Record<string, unknown> };
    result: Outcome;
  };
  complete: { body: WireSampling & { prompt: string | number[] }; result: Outcome };
  embed: {
    body: { input: string[]; dimensions?: number };
    /** The vectors one after the other, all equally long. */
    result: { vectors: Float32Array; promptTokens: number };
  };
  tokenize: { body: { text: string; addSpecial: boolean; parseSpecial: boolean }; result: Uint32Array };
  detokenize: { body: { ids: Uint32Array; skipSpecial: boolean }; result: string };
  template: {
    body: { messages: ChatMessage[]; addGenerationPrompt: boolean; templateArgs: Record<string, unknown> };
    result: { text: string; ids: Uint32Array };
  };
  forward: { body: { ids: Uint32Array; all: boolean }; result: { logits: Float32Array; nVocab: number } };
  /** Either `gguf`, or `config` and `tensors`. */
  loadAdapter: {
    body: { gguf?: Uint8Array; config?: Uint8Array; tensors?: Uint8Array; scale: number };
    result: number;
  };
  removeAdapter: { body: { id: number }; result: null };
  setAdapters: { body: { scales: [id: number, scale: number][] }; result: null };
  /** What was found when the first model was kept. */
  partStore: { body: Record<string, never>; result: PartStore | undefined };
  models: { body: Record<string, never>; result: CachedModel[] };
  deleteModel: { body: { key: string }; result: null };
  /** Bad parts are removed. */
  verifyModel: { body: { key: string }; result: { parts: number; bad: number } };
  pinModel: { body: { key: string; pinned: boolean }; result: null };
  exportModel: { body: { key: string }; result: WireFile[] };
  /** Refused, and nothing stored, when a part's hash is not that of its bytes. */
  importModel: { body: { files: WireFile[] }; result: null };
  /** The answer to the event `resolve`: another address, or why there is none. Answered at once. */
  resolved: { body: { ask: number; url?: string; error?: string }; result: null };
  /** Stops the request `target`, running or waiting. Answered at once. */
  abort: { body: { target: number }; result: null };
}

export type RequestType = keyof Requests;

export interface Request<T extends RequestType = RequestType> {
  v: typeof PROTOCOL_VERSION;
  id: number;
  type: T;
  body: Requests[T]['body'];
}

/** Sent while a request runs. */
export type WorkerEvent =
  /** The request was accepted and its turn has come: what fails later fails while generating. */
  | { kind: 'started' }
  /** Tokens come with the first of their text. */
  | { kind: 'text'; text: string; logprobs?: WireLogprob[] }
  | { kind: 'progress'; progress: Progress }
  | { kind: 'warning'; warning: Warning }
  /** The model runs on another number of workers now. */
  | { kind: 'threads'; threads: number }
  /** A server refuses an address of the model: the page may know another one. */
  | { kind: 'resolve'; ask: number; url: string; status: number };

export interface WireError {
  code: LamplightErrorCode;
  message: string;
  field?: string;
}

/** `id` is null when a message was so broken that it had none. */
export type Reply =
  | { id: number; type: 'result'; result: unknown }
  | { id: number | null; type: 'error'; error: WireError }
  | { id: number; type: 'event'; event: WorkerEvent };

/** Page to worker. `start` is read by worker.ts before the actor exists, the rest by gloo. */
export type ToWorker =
  | { start: { wasmUrl?: string } }
  | { Connected: number }
  | { ProcessInput: [handler: number, request: Request] };

/** Worker to page. */
export type FromWorker =
  | 'WorkerLoaded'
  | { ProcessOutput: [handler: number, reply: Reply] }
  /** The wasm core could not be started, or panicked; the worker is of no further use. */
  | { failed: string };

/** What the tabs that share an engine say to all of one another. */
export type GroupMessage =
  /** A tab looks for who has the engine. */
  | { hello: string }
  /** Another tab has the engine from now on: say hello to it. */
  | { leader: string };

/** Between one tab and the one with the engine, each way: the messages of page and worker, after the latter's `welcome`. */
export type MemberMessage = { welcome: string } | Exclude<ToWorker, { start: unknown }> | FromWorker;
