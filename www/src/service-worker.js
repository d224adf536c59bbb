// Keeps the page's own files, so that a page whose model is in the cache opens without a network.
// It never touches model files: the engine has its own store with hashes. The build fills in the two constants.

const VERSION = '__VERSION__';
const FILES = ['__FILES__'];
const CACHE = `lamplight-page-${VERSION}`;
const SHELL = ['./', 'theme.js', 'favicon.svg', 'manifest.webmanifest', 'models.json'];

self.addEventListener('install', (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(CACHE);
    // Hashed names: the browser's own copies from this visit will do.
    await cache.addAll(FILES);
    // A page served without one of these (models.json is optional) still works offline.
    await Promise.allSettled(SHELL.map((file) => cache.add(new Request(file, { cache: 'reload' }))));
    await self.skipWaiting();
  })());
});

self.addEventListener('activate', (event) => {
  event.waitUntil((async () => {
    const scope = new URL(self.registration.scope);
    for (const name of await caches.keys()) {
      if (!name.startsWith('lamplight-page-') || name === CACHE) continue;
      // Another copy of the demo on this origin, under another path, keeps its own files.
      const [first] = await (await caches.open(name)).keys();
      if (first === undefined || first.url.startsWith(scope.href)) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener('fetch', (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const scope = new URL(self.registration.scope);
  if (request.method !== 'GET' || !url.href.startsWith(scope.href) || request.headers.has('range')) return;
  const path = url.pathname.slice(scope.pathname.length);
  if (FILES.includes(path)) {
    event.respondWith(cacheFirst(request));
  } else if (request.mode === 'navigate' && (path === '' || path === 'index.html')) {
    event.respondWith(networkFirst(request, './'));
  } else if (SHELL.includes(path)) {
    event.respondWith(networkFirst(request, request));
  }
});

/** Built files carry a hash in their name: a kept copy never grows old. */
async function cacheFirst(request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}

/** Named files change: ask the server, fall back on the kept copy. */
async function networkFirst(request, key) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(key, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(key, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
