/**
 * Models by their manifest (`lamplight manifest`): every part is checked, an update fetches only parts that are not stored
 * yet, and the release before stays until the new one has loaded, and can be gone back to. Which releases there are is
 * kept in this site's localStorage. Knows no worker.
 */
import { abortedError, absolute, withoutQuery } from './client.js';
import type { WireExpected, WireSource } from './protocol.js';
import { LamplightError, type LamplightErrorCode, type ManifestModel } from './types.js';

/** The package's release, and the form of a manifest that it reads. */
const RUNTIME = '0.1.0';
const SCHEMA = 1;
const PART_BYTES = 16 * 2 ** 20;
const STATE = 'lamplight:manifest:';
const COHORT = 'lamplight:cohort';

export interface Manifest {
  lamplight: number;
  name: string;
  version: string;
  runtime?: string;
  partBytes: number;
  settings?: Record<string, unknown>;
  files: { name: string; bytes: number; sha256: string; dataEnd?: number; parts?: string[] }[];
}

/** What this browser has of a model. */
interface State {
  /** The release that loaded last. */
  active?: Manifest;
  /** The one before. */
  previous?: Manifest;
  /** A release that was gone back from: not taken again. */
  refused?: string;
  /** A release that is being downloaded, or was, and has not been loaded. */
  coming?: string;
}

/** A release that is to be loaded. */
export interface Release {
  url: string;
  manifest: Manifest;
  /** What is loaded instead if this one does not. */
  fallback: Manifest | undefined;
}

/** Whether a model is given by its manifest. */
export function isManifest(model: unknown): model is ManifestModel {
  return typeof model === 'object' && model !== null && 'manifest' in model;
}

/** The manifest's address for this installation: of channels, one is drawn by lot and kept to. */
export function manifestUrl({ manifest }: ManifestModel): string {
  if (typeof manifest === 'string' || manifest instanceof URL) return absolute(manifest);
  const { stable, canary, percent } = manifest ?? {};
  if (stable === undefined || canary === undefined || !(percent >= 0 && percent <= 100)) {
    throw failed('invalid-request', 'model.manifest is neither a URL nor { stable, canary, percent }');
  }
  let lot = Number(read(COHORT) ?? NaN);
  if (!(lot >= 0)) {
    lot = Math.random() * 100;
    write(COHORT, String(lot));
  }
  return absolute(lot < percent ? canary : stable);
}

/** Which release to load: the server's, unless it was gone back from; without a network, what is here. */
export async function latest(model: ManifestModel, signal: AbortSignal | undefined): Promise<Release> {
  const url = manifestUrl(model);
  const { active, refused } = readState(url);
  let manifest: Manifest;
  try {
    manifest = await fetchManifest(url, model, signal);
  } catch (error) {
    if (signal?.aborted) throw abortedError(signal);
    if (active && error instanceof LamplightError && error.code === 'network') return { url, manifest: active, fallback: undefined };
    throw error;
  }
  if (manifest.version === refused && active) manifest = active;
  return { url, manifest, fallback: active && active.version !== manifest.version ? active : undefined };
}

/** Where a release's files are and what they must be. */
export function releaseSource({ url, manifest }: Release, headers: Record<string, string> = {}): WireSource {
  const files = manifest.files.map(({ name }) => ({ name, url: new URL(name.split('/').map(encodeURIComponent).join('/'), url).href }));
  const expected = Object.fromEntries(manifest.files.map(({ name, sha256, parts, dataEnd }): [string, WireExpected] => (
    [name, parts ? { sha256, parts, dataEnd: dataEnd! } : { sha256 }]
  )));
  return { kind: 'urls', files, headers, cacheKey: keyOf(url, manifest.version), expected };
}

/**
 * Notes that a release has loaded. Where releases may be stored that are neither in use now nor the one to go back to: which
 * keys in storage are theirs.
 */
export function activate({ url, manifest }: Release): ((key: string) => boolean) | undefined {
  const { previous, ...state } = readState(url);
  const { active, refused, coming } = state;
  if (active?.version === manifest.version) return undefined;
  // Where that cannot be noted, the next load knows no better than this one: all stays.
  const noted = writeState(url, { ...state, active: manifest, ...(active && { previous: active }) });
  if (!noted || (previous === undefined && refused === undefined && coming === undefined)) return undefined;
  const kept = [manifest.version, active?.version, coming].map((version) => version !== undefined && keyOf(url, version));
  return (key) => key.startsWith(keyOf(url, '')) && !kept.includes(key);
}

/** Notes that a release is being downloaded, so that it is not taken for an old one. */
export function expect({ url, manifest }: Release): void {
  writeState(url, { ...readState(url), coming: manifest.version });
}

/** Goes back to the release before, for this and later loads; resolves to its version. */
export function rollback(model: ManifestModel): string {
  const url = manifestUrl(model);
  const { active, previous } = readState(url);
  if (!active || !previous) throw failed('invalid-request', 'there is no release of this model to go back to');
  writeState(url, { active: previous, refused: active.version });
  return previous.version;
}

/** The server's release, if it is not the one that loaded last; asks for the manifest and nothing else. */
export async function newRelease(model: ManifestModel, signal?: AbortSignal): Promise<Release | undefined> {
  const url = manifestUrl(model);
  const { active, refused } = readState(url);
  const manifest = await fetchManifest(url, model, signal);
  return manifest.version === active?.version || manifest.version === refused ? undefined : { url, manifest, fallback: active };
}

async function fetchManifest(url: string, { headers, publicKey }: ManifestModel, signal: AbortSignal | undefined): Promise<Manifest> {
  const bytes = await get(url, headers, signal);
  if (publicKey !== undefined) await checkSignature(bytes, await get(`${url}.sig`, headers, signal), publicKey);
  let manifest: Manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw failed('malformed', `${url} is no manifest of a model: it is not JSON`);
  }
  check(manifest, url);
  return manifest;
}

async function get(url: string, headers: Record<string, string> | undefined, signal: AbortSignal | undefined): Promise<ArrayBuffer> {
  let response: Response;
  try {
    response = await fetch(url, { headers: headers ?? {}, signal: signal ?? null, cache: 'no-cache' });
  } catch (error) {
    throw failed('network', `${url} cannot be reached (${String(error)})`);
  }
  if (!response.ok) throw failed('http-status', `${url} was answered with ${response.status}`);
  return response.arrayBuffer();
}

/** The signature file holds the Ed25519 signature of the manifest's bytes, in base64. */
async function checkSignature(bytes: ArrayBuffer, signature: ArrayBuffer, publicKey: string): Promise<void> {
  let sound = false;
  try {
    const key = await crypto.subtle.importKey('raw', base64(publicKey), { name: 'Ed25519' }, false, ['verify']);
    sound = await crypto.subtle.verify({ name: 'Ed25519' }, key, base64(new TextDecoder().decode(signature)), bytes);
  } catch (error) {
    throw failed('integrity', `the manifest's signature cannot be checked (${String(error)}); is publicKey 32 bytes in base64?`);
  }
  if (!sound) throw failed('integrity', "the manifest's signature is not by the owner of publicKey");
}

function base64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
}

function check(manifest: Manifest, url: string): void {
  const hash = (value: unknown) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
  const malformed = (why: string) => failed('malformed', `${url} is no manifest of a model: ${why}`);
  if (typeof manifest !== 'object' || manifest === null || !Number.isInteger(manifest.lamplight)) throw malformed('it has no number "lamplight"');
  if (manifest.lamplight !== SCHEMA || (manifest.runtime !== undefined && isNewer(manifest.runtime, RUNTIME))) {
    throw failed('unsupported-version', `${url} needs Lamplight ${manifest.runtime ?? 'of a later release'}, this is ${RUNTIME}`);
  }
  if (typeof manifest.version !== 'string' || manifest.version === '') throw malformed('it has no version');
  if (!Array.isArray(manifest.files) || manifest.files.length === 0) throw malformed('it lists no files');
  for (const file of manifest.files) {
    const { name, sha256, parts, dataEnd } = file ?? {};
    if (typeof name !== 'string' || name.split('/').some((part) => /^\.{0,2}$/.test(part))) throw malformed('a file has no name within the folder');
    if (!hash(sha256)) throw malformed(`${name} has no SHA-256`);
    if (parts === undefined) continue;
    const n = Math.ceil((dataEnd ?? NaN) / PART_BYTES);
    if (manifest.partBytes !== PART_BYTES || !Array.isArray(parts) || parts.length !== n || !parts.every(hash)) {
      throw malformed(`the parts of ${name} are not those of ${PART_BYTES} bytes up to dataEnd`);
    }
  }
}

/** Whether the version `a` is later than `b`, by their numbers. */
function isNewer(a: string, b: string): boolean {
  const [x, y] = [a, b].map((version) => version.split('.').map((part) => Number.parseInt(part, 10) || 0));
  const at = [0, 1, 2].find((index) => (x![index] ?? 0) !== (y![index] ?? 0));
  return at !== undefined && (x![at] ?? 0) > (y![at] ?? 0);
}

/** An address's query may be a signature, which expires. */
function keyOf(url: string, version: string): string {
  return `${withoutQuery(url)}@${version}`;
}

function stateOf(url: string): string {
  return STATE + withoutQuery(url);
}

function readState(url: string): State {
  try {
    return JSON.parse(read(stateOf(url)) ?? '{}') as State;
  } catch {
    return {};
  }
}

/** Whether that is noted. */
function writeState(url: string, state: State): boolean {
  return write(stateOf(url), JSON.stringify(state));
}

// Where a page may keep nothing, every load is the first one.
function read(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function write(name: string, value: string): boolean {
  try {
    localStorage.setItem(name, value);
    return true;
  } catch {
    return false;
  }
}

function failed(code: LamplightErrorCode, message: string): LamplightError {
  return new LamplightError(code, message, 'model.manifest');
}
