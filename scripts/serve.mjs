// Serves the demo page and a model on loopback: static files with the right types, byte ranges, and the headers that the
// page ships in its `_headers` file (the content security policy among them), so that what runs here is what a host serves.
//   node scripts/serve.mjs DIR [--port 8080] [--host 127.0.0.1] [--model FILE.gguf]...
// `models.json` lists the given models as { "models": [{ "name", "url", "bytes" }] }; they are served under models/.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { parseArgs } from 'node:util';

const TYPES = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8', '.json': 'application/json', '.map': 'application/json', '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml', '.png': 'image/png', '.ico': 'image/x-icon', '.txt': 'text/plain; charset=utf-8',
  '.webmanifest': 'application/manifest+json', '.woff2': 'font/woff2',
};

/** The rules of a `_headers` file: lines of a path pattern (`*` matches anything), each followed by indented `Name: value` lines. */
export function parseHeaders(text) {
  const rules = [];
  for (const line of text.split('\n')) {
    if (!line.trim() || line.trim().startsWith('#')) continue;
    if (!/^\s/.test(line)) {
      const pattern = line.trim().split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&')).join('.*');
      rules.push({ pattern: new RegExp(`^${pattern}$`), headers: [] });
    } else if (rules.length) {
      const colon = line.indexOf(':');
      rules.at(-1).headers.push([line.slice(0, colon).trim(), line.slice(colon + 1).trim()]);
    }
  }
  return (pathname) => rules.filter((rule) => rule.pattern.test(pathname)).flatMap((rule) => rule.headers);
}

/** One `bytes=a-b` range of a file of `size` bytes: `[first, last]`, null for the whole file, undefined for one that cannot be met. */
export function parseRange(header, size) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!match || (!match[1] && !match[2])) return null;
  const first = match[1] ? Number(match[1]) : Math.max(0, size - Number(match[2]));
  const last = match[1] && match[2] ? Math.min(Number(match[2]), size - 1) : size - 1;
  return first <= last && first < size ? [first, last] : undefined;
}

/** Sends a file, whole or the asked range. */
export function sendFile(request, response, file, headers = {}) {
  const stat = fs.statSync(file);
  response.setHeader('Content-Type', TYPES[path.extname(file)] ?? 'application/octet-stream');
  response.setHeader('Accept-Ranges', 'bytes');
  response.setHeader('ETag', `"${stat.size.toString(16)}-${Math.trunc(stat.mtimeMs).toString(16)}"`);
  response.setHeader('Cache-Control', 'no-cache');
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  const range = parseRange(request.headers.range, stat.size);
  if (range === undefined) {
    response.writeHead(416, { 'Content-Range': `bytes */${stat.size}` }).end();
    return;
  }
  const [first, last] = range ?? [0, stat.size - 1];
  if (range) response.setHeader('Content-Range', `bytes ${first}-${last}/${stat.size}`);
  response.setHeader('Content-Length', Math.max(0, last - first + 1));
  response.writeHead(range ? 206 : 200);
  if (request.method === 'HEAD' || stat.size === 0) response.end();
  else fs.createReadStream(file, { start: first, end: last }).on('error', () => response.destroy()).pipe(response);
}

/** The file under `root` that a URL path names, or null when there is none (or it would leave `root`). */
export function resolveFile(root, pathname) {
  let decoded;
  try { decoded = decodeURIComponent(pathname); } catch { return null; }
  if (decoded.includes('\0')) return null;
  const file = path.resolve(root, `.${decoded.endsWith('/') ? `${decoded}index.html` : decoded}`);
  if (file !== root && !file.startsWith(root + path.sep)) return null;
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() ? file : null;
}

/** An HTTP server (not yet listening) for `root` and the given model files. */
export function createServer(root, models = []) {
  const headersFile = path.join(root, '_headers');
  const headersFor = fs.existsSync(headersFile) ? parseHeaders(fs.readFileSync(headersFile, 'utf8')) : () => [];
  const urlOf = (file) => `models/${encodeURIComponent(path.basename(file))}`;
  const byPath = new Map(models.map((file) => [`/${urlOf(file)}`, file]));
  const list = () => JSON.stringify({
    models: models.map((file) => ({
      name: path.basename(file).replace(/\.gguf$/i, ''),
      url: urlOf(file),
      bytes: fs.statSync(file).size,
    })),
  }, null, 2);

  return http.createServer((request, response) => {
    // Not by `new URL`: it takes what follows two slashes for a host.
    const pathname = request.url.split(/[?#]/, 1)[0];
    for (const [name, value] of headersFor(pathname)) response.setHeader(name, value);
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { Allow: 'GET, HEAD' }).end();
    } else if (pathname === '/models.json' && models.length) {
      response.writeHead(200, { 'Content-Type': TYPES['.json'], 'Cache-Control': 'no-store' }).end(list());
    } else {
      const file = byPath.get(pathname) ?? resolveFile(root, pathname);
      if (file && path.basename(file) !== '_headers') sendFile(request, response, file);
      else response.writeHead(404, { 'Content-Type': TYPES['.txt'] }).end('Not found\n');
    }
  });
}

function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      port: { type: 'string', default: '8080' },
      host: { type: 'string', default: '127.0.0.1' },
      model: { type: 'string', multiple: true, default: [] },
    },
  });
  const root = path.resolve(positionals[0] ?? 'www/dist');
  const models = values.model.map((file) => path.resolve(file));
  const absent = [path.join(root, 'index.html'), ...models].find((file) => !fs.existsSync(file));
  if (absent) {
    console.error(`${absent} is missing${models.includes(absent) ? '' : ': run `make build` first'}`);
    process.exit(1);
  }
  const server = createServer(root, models);
  server.on('error', (error) => {
    console.error(error.code === 'EADDRINUSE' ? `port ${values.port} is in use; choose another: make demo PORT=8081` : error.message);
    process.exit(1);
  });
  server.listen(Number(values.port), values.host, () => {
    const { address, port } = server.address();
    for (const file of models) console.log(`model: ${file}`);
    console.log(`Lamplight is at http://${address === '127.0.0.1' ? 'localhost' : address}:${port}/  (Ctrl+C stops it)`);
  });
}

if (import.meta.main ?? process.argv[1] === import.meta.filename) main();
