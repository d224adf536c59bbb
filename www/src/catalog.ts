/** The models that this copy of the page offers, from `models.json` beside it. */

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

/** The cache's key of an address: no query, no fragment. */
export function cacheKey(url: string): string {
  const parsed = new URL(url, document.baseURI);
  parsed.search = '';
  parsed.hash = '';
  return parsed.href;
}

/** A stored model by its file's name; what a file calls itself is often the name of a training run. */
export function storedName(key: string, fallback: string): string {
  const name = displayName(URL.parse(key)?.pathname ?? '');
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
