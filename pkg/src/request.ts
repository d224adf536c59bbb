/**
 * What is asked of a worker to load a model: options checked, addresses made absolute, and looked up where they are a hub's or a
 * manifest's. Principal function: `loadRequest`. Starts no worker.
 */
import { abortedError, absolute } from './client.js';
import { directorySource, isDirectory } from './directory.js';
import { isManifest, latest, releaseSource, type Release } from './manifest.js';
import { DEFAULT_HUB, hubAddress, resolveHub, roomForModel, type HubAddress } from './model-hub.js';
import type { Requests, WireExpected, WireSource } from './protocol.js';
import { storageState } from './storage.js';
import { LamplightError, type CachedModel, type EngineOptions, type RemoteModel } from './types.js';

type Body = Requests['load']['body'];

/** Most workers that can be asked for. */
const MAX_THREADS = 64;
/** Most texts that can be kept. */
const MAX_SEQUENCES = 16;

function loadBody(options: EngineOptions, source?: WireSource): Body {
  if (typeof options !== 'object' || options === null || options.model === undefined || options.model === null) {
    throw invalid('options.model is missing: give a URL, a File or a Blob', 'model');
  }
  const backend = oneOf(options.backend ?? 'auto', ['auto', 'webgpu', 'cpu'] as const, 'backend');
  const gpuPrecision = oneOf(options.gpuPrecision ?? 'auto', ['auto', 'f16', 'f32'] as const, 'gpuPrecision');
  const { contextLength } = options;
  if (contextLength !== undefined && !(Number.isSafeInteger(contextLength) && contextLength > 0)) {
    throw invalid(`contextLength must be a positive integer, not ${String(contextLength)}`, 'contextLength');
  }
  const { sequences } = options;
  if (sequences !== undefined && !(Number.isSafeInteger(sequences) && sequences >= 1 && sequences <= MAX_SEQUENCES)) {
    throw invalid(`sequences must be an integer from 1 to ${MAX_SEQUENCES}, not ${String(sequences)}`, 'sequences');
  }
  const { quantize } = options;
  if (quantize !== undefined) oneOf(quantize, ['q8_0', 'q4_0', 'q4_k'] as const, 'quantize');
  const { kvCache } = options;
  if (kvCache !== undefined) oneOf(kvCache, ['f32', 'f16', 'q8_0', 'q4_0'] as const, 'kvCache');
  const { threads = 'auto' } = options;
  if (threads !== 'auto' && !(Number.isSafeInteger(threads) && threads >= 1 && threads <= MAX_THREADS)) {
    throw invalid(`threads must be 'auto' or a number from 1 to ${MAX_THREADS}, not ${String(threads)}`, 'threads');
  }
  return {
    source: source ?? wireSource(options.model),
    backend,
    gpuPrecision,
    tune: options.tune,
    contextLength,
    sequences,
    quantize,
    kvCache,
    threads: threads === 'auto' ? undefined : threads,
    cache: options.cache ?? true,
    evict: options.evict ?? false,
    resolves: typeof options.resolveUrl === 'function',
  };
}

/**
 * What is asked of a worker to load a model, with all addresses looked up. Of a model by its manifest it is `release`, or else the
 * newest one. `list` tells what is stored.
 */
export async function loadRequest(options: EngineOptions, list: () => Promise<CachedModel[]>, release?: Release): Promise<Body> {
  const model = options?.model;
  if (isManifest(model)) {
    const chosen = release ?? await latest(model, options.signal);
    const { contextLength, quantize, gpuPrecision } = chosen.manifest.settings ?? {};
    const settings = { contextLength, quantize, gpuPrecision } as Partial<EngineOptions>;
    return loadBody({ ...settings, ...options }, releaseSource(chosen, model.headers));
  }
  if (isDirectory(model)) return loadBody(options, await directorySource(model));
  const address = hubAddress(model);
  const body = loadBody(options);
  if (options.signal?.aborted) throw abortedError(options.signal);
  return address ? resolved(options, body, address, list) : body;
}

/** The same for a model of a hub. */
async function resolved(options: EngineOptions, body: Body, address: HubAddress, list: () => Promise<CachedModel[]>): Promise<Body> {
  const { signal, hub = DEFAULT_HUB, hubToken: token } = options;
  const stored = body.cache ? await list().catch(() => []) : [];
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
  if (typeof FileList !== 'undefined' && model instanceof FileList) return wireSource([...model]);
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

function oneOf<T extends string>(value: string, allowed: readonly T[], field: string): T {
  const found = allowed.find((name) => name === value);
  if (found === undefined) throw invalid(`${field} must be one of ${allowed.join(', ')}, not ${String(value)}`, field);
  return found;
}

/** The error for an argument that is wrong. */
export function invalid(message: string, field: string): LamplightError {
  return new LamplightError('invalid-request', message, field);
}
