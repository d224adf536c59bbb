/**
 * Addresses of a model hub: `hf:owner/repo`, `hf:owner/repo/file.gguf`, each with `@revision` behind it if wanted. The files
 * are asked of the hub's API, with their hashes; of several quantisations one is picked that fits. Knows no worker.
 */
import type { WireExpected, WireSource } from './protocol.js';
import { deviceMemoryGib, memoryRoom } from './storage.js';
import { LamplightError, type CachedModel, type LamplightErrorCode } from './types.js';

export const DEFAULT_HUB = 'https://huggingface.co';

export interface HubAddress {
  repo: string;
  /** Within the repository; empty: all of it. */
  path: string;
  revision: string;
}

/** What a model needs beside its file: room for a context, and for what the backend computes with. */
const BESIDE = 256 * 2 ** 20;
/** Quantisations in the order in which they are tried: the usual balance first, then larger and smaller ones. */
const PREFERRED = [
  'Q4_K_M', 'Q4_K_S', 'MXFP4', 'Q4_0', 'Q4_1', 'IQ4_NL', 'IQ4_XS', 'Q5_K_M', 'Q5_K_S', 'Q5_0', 'Q5_1', 'Q6_K', 'Q8_0', 'Q3_K_L',
  'Q3_K_M', 'Q3_K_S', 'IQ3_M', 'IQ3_S', 'Q2_K', 'IQ2_M', 'BF16', 'F16',
];
/** Pages of a repository's list of files that are read: 20 000 files. */
const MAX_PAGES = 20;

/** The address that a model's name is, if it is one. */
export function hubAddress(model: unknown): HubAddress | undefined {
  if (typeof model !== 'string' || !/^hf:/i.test(model)) return undefined;
  const [, repo, path = '', revision = 'main'] = /^hf:(?:\/\/)?([\w.-]+\/[\w.-]+)(?:\/([^@]*))?(?:@(.+))?$/i.exec(model) ?? [];
  const segments = path.split('/').filter(Boolean);
  if (repo === undefined || [...segments, ...repo.split('/'), ...revision.split('/')].some((part) => /^\.{0,2}$/.test(part))) {
    throw invalid(`${model} is not an address of the form hf:owner/repo, hf:owner/repo/file.gguf or either with @revision`);
  }
  return { repo, path: segments.join('/'), revision };
}

/** A file of a repository, as the hub's API lists it. */
export interface HubFile {
  path: string;
  size: number;
  /** Of files that git keeps elsewhere: every weight file. */
  lfs?: { oid?: string };
}

export interface HubOptions {
  hub: string;
  token?: string | undefined;
  /** Bytes that a model may take. */
  budget: number;
  /** What this browser has already: then the same file is taken again, and nothing is asked of the hub where it is whole. */
  stored: CachedModel[];
  signal?: AbortSignal | undefined;
}

/** Where a model's files are, and what they must be. */
export async function resolveHub(address: HubAddress, options: HubOptions): Promise<WireSource> {
  const found = options.stored.filter(({ key }) => isOf(key, address)).sort((a, b) => Number(b.complete) - Number(a.complete))[0];
  if (found?.complete) return source(address, pathOf(found.key, address), {}, options);
  const files = await listFiles(address, options);
  if (files === undefined) {
    // A mirror may have the files and no API.
    const path = found ? pathOf(found.key, address) : address.path;
    if (/\.gguf$/i.test(path)) return source(address, path, {}, options);
    throw statusError(404, address.repo, address.revision, options.hub);
  }
  const path = found ? pathOf(found.key, address) : chooseFile(files, address, options.budget);
  const folder = path.slice(0, path.lastIndexOf('/') + 1);
  const expected: Record<string, WireExpected> = {};
  for (const { path: name, lfs } of files) {
    if (lfs?.oid === undefined || !/^[0-9a-f]{64}$/.test(lfs.oid) || !name.startsWith(folder)) continue;
    expected[encodePath(name.slice(folder.length))] = { sha256: lfs.oid };
  }
  return source(address, path, expected, options);
}

/** Which file of a repository is meant or fits; empty for a repository that is a folder of safetensors. */
export function chooseFile(files: HubFile[], { repo, path }: HubAddress, budget: number): string {
  if (path !== '' && files.some((file) => file.path === path)) return path;
  const inside = files.filter((file) => path === '' || file.path.startsWith(`${path}/`));
  // Of a model in several files, the first stands for all.
  const sizes = new Map<string, number>();
  for (const file of inside.filter((file) => /\.gguf$/i.test(file.path) && !/mmproj|imatrix/i.test(file.path))) {
    const first = firstShard(file.path);
    sizes.set(first, (sizes.get(first) ?? 0) + file.size);
  }
  if (sizes.size === 0) {
    if (inside.some((file) => /(^|\/)config\.json$/.test(file.path))) return path && `${path}/`;
    const what = path === '' ? 'neither a GGUF file nor a config.json' : `nothing of the name ${path}`;
    throw new LamplightError('not-a-model', `the repository ${repo} has ${what}`, 'model');
  }
  const all = [...sizes].sort(([, a], [, b]) => a - b);
  const fitting = all.filter(([, size]) => size * 1.1 + BESIDE <= budget);
  const rank = ([name]: [string, number]) => {
    const at = PREFERRED.findIndex((quant) => new RegExp(`[-._/]${quant}([-._/]|$)`, 'i').test(name));
    return at < 0 ? PREFERRED.length : at;
  };
  const best = fitting.sort((a, b) => rank(a) - rank(b) || b[1] - a[1])[0];
  if (best) return best[0];
  const [name, size] = all[0]!;
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
  throw new LamplightError(
    'out-of-memory',
    `the smallest file of ${repo} (${name}) takes ${mib(size)}, and there is room for about ${mib(budget)} here; take a `
      + 'smaller model, or name the file to try all the same',
    'model',
  );
}

/** What the CPU path has (`MAX_CPU_BYTES` of the core). */
const CPU_BYTES = 3700 * 2 ** 20;

/** Bytes that a model may take in this browser, as far as it tells: of the memory, and of the storage. */
export function roomForModel(backend: string, storageRoom = Infinity): number {
  return Math.min(memoryRoom(deviceMemoryGib()).bytes, backend === 'cpu' ? CPU_BYTES : Infinity, storageRoom);
}

/** All files of a repository; `undefined` where the hub knows no such list. */
async function listFiles(
  { repo, path, revision }: HubAddress, { hub, token, signal }: HubOptions,
): Promise<HubFile[] | undefined> {
  const files: HubFile[] = [];
  let next: string | undefined = `${hub}/api/models/${repo}/tree/${encodeURIComponent(revision)}?recursive=true`;
  for (let page = 0; next !== undefined && page < MAX_PAGES; page += 1) {
    let response: Response;
    try {
      response = await fetch(next, { headers: authorization(token), signal: signal ?? null, cache: 'no-cache' });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw failed('network', `the hub at ${hub} cannot be reached (${String(error)}); check the connection, or set the option hub`);
    }
    if (response.status === 404) return undefined;
    if (!response.ok) throw statusError(response.status, repo, revision, hub);
    try {
      const entries = await response.json() as (HubFile & { type: string })[];
      for (const entry of entries) if (entry.type === 'file' && typeof entry.path === 'string') files.push(entry);
    } catch {
      throw failed('not-a-model', `what ${hub} answers about ${repo} is no list of files: is it a model hub?`);
    }
    const link = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('link') ?? '')?.[1];
    next = link === undefined ? undefined : sameHost(link, next);
  }
  if (path !== '' && /\.gguf$/i.test(path) && !files.some((file) => file.path === path)) {
    const others = files.map((file) => file.path).filter((name) => /\.gguf$/i.test(name)).slice(0, 8).join(', ');
    throw failed('http-status', `the repository ${repo} has no file ${path} at ${revision}${others && `; it has ${others}`}`);
  }
  return files;
}

/** The next page, which must be the same server's: the token goes with the request. */
function sameHost(link: string, current: string): string | undefined {
  const next = new URL(link, current);
  return next.origin === new URL(current).origin ? next.href : undefined;
}

function statusError(status: number, repo: string, revision: string, hub: string): LamplightError {
  const advice = status === 401 || status === 403
    ? `the repository is private or gated: accept its terms at ${hub}/${repo} and give the option hubToken`
    : status === 404 ? `there is no repository ${repo} with the revision ${revision}, or it is private (option hubToken)` : 'try later';
  return failed('http-status', `${hub} answers ${status} for ${repo}: ${advice}`);
}

function source(
  { repo, revision }: HubAddress, path: string, expected: Record<string, WireExpected>, { hub, token }: HubOptions,
): WireSource {
  // Under its key, the model is known by its first file.
  const url = `${hub}/${repo}/resolve/${encodePath(revision)}/${encodePath(firstShard(path))}`;
  const cacheKey = keyOf({ repo, path, revision });
  const kind = path === '' || path.endsWith('/') ? 'folder' : 'url';
  return { kind, url, headers: authorization(token), cacheKey, expected };
}

/** What a model is called in storage: the same whichever mirror it came from. */
function keyOf({ repo, path, revision }: HubAddress): string {
  return `hf:${repo}/${firstShard(path)}@${revision}`;
}

function pathOf(key: string, { repo, revision }: HubAddress): string {
  return key.slice(`hf:${repo}/`.length, -`@${revision}`.length);
}

/** Whether a stored model is what an address means. */
function isOf(key: string, address: HubAddress): boolean {
  if (!key.startsWith(`hf:${address.repo}/`) || !key.endsWith(`@${address.revision}`)) return false;
  const path = pathOf(key, address);
  return address.path === '' || path === firstShard(address.path) || path.startsWith(`${address.path}/`);
}

function firstShard(path: string): string {
  return path.replace(/-\d{5}(-of-\d{5}\.gguf)$/i, '-00001$1');
}

function encodePath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}

function authorization(token: string | undefined): Record<string, string> {
  return token === undefined ? {} : { Authorization: `Bearer ${token}` };
}

function failed(code: LamplightErrorCode, message: string): LamplightError {
  return new LamplightError(code, message, 'model');
}

function invalid(message: string): LamplightError {
  return failed('invalid-request', message);
}
