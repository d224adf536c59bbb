/** The models that this copy of the page offers, from `models.json` beside it. */

import type { CachedModel } from 'lamplight';

/** One entry of `models.json`. `url` may be relative to the page. */
export interface CatalogModel {
  name: string;
  url: string;
  bytes?: number;
  license?: string;
  /** Where the model is described. */
  homepage?: string;
}

/** The list, with absolute addresses. Empty when the file is absent: the page then offers addresses and files only. */
export async function fetchCatalog(): Promise<CatalogModel[]> {
  try {
    const response = await fetch('models.json', { cache: 'no-cache' });
    if (!response.ok) return [];
    const list = (await response.json()) as { models?: unknown };
    return Array.isArray(list.models) ? list.models.flatMap(readEntry) : [];
  } catch {
    return [];
  }
}

function readEntry(entry: Partial<CatalogModel> | null): CatalogModel[] {
  if (typeof entry?.name !== 'string' || typeof entry.url !== 'string') return [];
  const url = URL.parse(entry.url, document.baseURI);
  if (!url || !isModelAddress(url)) return [];
  const homepage = entry.homepage ? URL.parse(entry.homepage) : null;
  return [{
    name: displayName(entry.name),
    url: url.href,
    ...(typeof entry.bytes === 'number' && { bytes: entry.bytes }),
    ...(typeof entry.license === 'string' && { license: entry.license }),
    ...(homepage?.protocol === 'https:' && { homepage: homepage.href }),
  }];
}

/** https anywhere, http only where the page itself or this machine serves it; `hf:owner/repo` is at a hub. */
export function isModelAddress(url: URL): boolean {
  if (url.protocol === 'https:' || url.protocol === 'hf:' || url.origin === location.origin) return true;
  return url.protocol === 'http:' && ['localhost', '127.0.0.1'].includes(url.hostname);
}

/** Addresses of one model are equal but for query and fragment. */
function bare(address: string): string {
  return address.replace(/[?#].*$/, '');
}

/** Whether `key` is what the model at an address is called in storage; of a repository at a hub, each of its models. */
function isKeyOf(key: string, address: string): boolean {
  const [, path, revision = 'main'] = /^hf:(?:\/\/)?(.*?)\/*(?:@(.+))?$/i.exec(address) ?? [];
  if (path === undefined) return key === bare(address);
  return key === `hf:${path}@${revision}` || (key.startsWith(`hf:${path}/`) && key.endsWith(`@${revision}`));
}

/** What is stored of the model at an address. */
export function findStored(address: string, entries: CachedModel[]): CachedModel | undefined {
  const found = entries.filter(({ key }) => isKeyOf(key, address));
  return found.find(({ complete }) => complete) ?? found[0];
}

/** The offer of the model at an address, or of that name in storage. */
export function findOffer(address: string, catalog: CatalogModel[]): CatalogModel | undefined {
  return catalog.find(({ url }) => bare(url) === bare(address) || isKeyOf(address, url));
}

/** A stored model by its file's name; what a file calls itself is often the name of a training run. */
export function storedName(key: string, fallback: string): string {
  // At a hub, the revision stands behind the name.
  const path = /^hf:([^@]*)/.exec(key)?.[1] ?? URL.parse(key)?.pathname ?? '';
  const name = displayName(path);
  try {
    return decodeURIComponent(name) || fallback;
  } catch {
    return name || fallback;
  }
}

/** A file name without folders and ending: `SmolLM2-135M-Instruct.Q4_1`. */
export function displayName(name: string): string {
  return name.replace(/^.*[/\\]/, '').replace(/\.gguf$/i, '');
}
