// An HTTP server on loopback for the browser tests that misbehaves on request, and keeps a log of what was asked for.
//
//   const server = await startServer({ mounts: { '/pkg/': 'pkg/dist' } });
//   server.fault('/models/x.gguf', { cutAfter: 20e6, times: 1 });
//
// A fault is an object with any of:
//   status, body, headers   answer with these instead of the file
//   noRanges                send the whole file (200) whatever range was asked for
//   cutAfter                destroy the connection after so many bytes of the body
//   holdAfter               stop sending after so many bytes, and keep the connection open
//   bytesPerSecond          send slowly
//   lineBytesPerSecond      all answers together share a line of this speed
//   flipByteAt              corrupt the byte at this offset of the file, in every answer that holds it
//   times                   how many answers it spoils (every one by default)
//   when(entry)             only answers to requests for which this is true; entry is the log entry
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createServer as createAppServer, parseRange, resolveFile } from '../../scripts/serve.mjs';

const TYPES = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.mjs': 'text/javascript', '.css': 'text/css',
  '.json': 'application/json', '.wasm': 'application/wasm', '.svg': 'image/svg+xml',
};
const CHUNK = 64 * 1024;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when more can be written, or never will be. */
function drained(response) {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

/** Waits until the line has carried `length` bytes more; a timer that came late is made up for within 50 ms. */
function onLine(fault, length) {
  const now = performance.now();
  fault.carried = Math.max(fault.carried ?? now, now - 50) + (length / fault.lineBytesPerSecond) * 1000;
  return sleep(fault.carried - now);
}

/** Writes `file[first..=last]` with the fault's cuts and slowness; resolves with how many bytes were handed over. */
async function sendBody(response, file, first, last, fault) {
  let sent = 0;
  const handle = await fs.promises.open(file);
  try {
    for (let at = first; at <= last && !response.destroyed; ) {
      let length = Math.min(CHUNK, last - at + 1);
      const stop = fault.cutAfter ?? fault.holdAfter;
      if (stop !== undefined) length = Math.min(length, stop - sent);
      if (length <= 0) {
        // A held connection stays open until the client goes away or the server closes.
        if (fault.cutAfter !== undefined) response.destroy();
        return sent;
      }
      const { buffer } = await handle.read(Buffer.alloc(length), 0, length, at);
      if (fault.flipByteAt >= at && fault.flipByteAt < at + length) buffer[fault.flipByteAt - at] ^= 0xff;
      if (!response.write(buffer)) {
        await drained(response);
      }
      sent += length;
      at += length;
      if (fault.bytesPerSecond) await sleep((length / fault.bytesPerSecond) * 1000);
      if (fault.lineBytesPerSecond) await onLine(fault, length);
    }
    response.end();
    return sent;
  } finally {
    await handle.close();
  }
}

/**
 * Starts the server. `mounts` maps URL prefixes to folders, `files` exact URL paths to a file or a Buffer, `headers` is sent with
 * everything under a mount. `app` mounts a built page with its own `_headers` at the root: `{ root, models }`.
 */
export async function startServer({ mounts = {}, files = {}, headers = {}, app } = {}) {
  const log = [];
  const faults = [];
  const appServer = app && createAppServer(app.root, app.models);
  let offline = null;
  // Answers under way, by path, and the most there were.
  const [active, peaks] = [new Map(), new Map()];

  const locate = (pathname) => {
    if (files[pathname]) return files[pathname];
    const prefix = Object.keys(mounts).filter((p) => pathname.startsWith(p)).sort((a, b) => b.length - a.length)[0];
    return prefix && resolveFile(path.resolve(mounts[prefix]), `/${pathname.slice(prefix.length)}`);
  };

  const takeFault = (entry) => {
    const index = faults.findIndex((f) => f.pathname === entry.path && (f.when?.(entry) ?? true));
    if (index < 0) return {};
    const fault = faults[index];
    fault.times -= 1;
    if (fault.times <= 0) faults.splice(index, 1);
    return fault;
  };

  const server = http.createServer((request, response) => {
    const { pathname, search } = new URL(request.url, 'http://localhost');
    const entry = { method: request.method, path: pathname, query: search, range: request.headers.range ?? null, status: 0, sent: 0 };
    log.push(entry);
    response.on('error', () => {});
    const open = (active.get(pathname) ?? 0) + 1;
    active.set(pathname, open);
    peaks.set(pathname, Math.max(peaks.get(pathname) ?? 0, open));
    response.on('close', () => active.set(pathname, active.get(pathname) - 1));
    if (offline !== null && pathname.startsWith(offline)) { request.socket.destroy(); return; }
    const fault = takeFault(entry);
    if (fault.status) {
      entry.status = fault.status;
      response.writeHead(fault.status, { 'Content-Type': 'text/html', ...fault.headers }).end(fault.body ?? '');
      return;
    }
    let file = locate(pathname);
    if (!file && appServer) {
      response.on('finish', () => { entry.status = response.statusCode; });
      appServer.emit('request', request, response);
      return;
    }
    if (!file) { entry.status = 404; response.writeHead(404).end('Not found\n'); return; }

    const size = Buffer.isBuffer(file) ? file.length : fs.statSync(file).size;
    const range = fault.noRanges ? null : parseRange(request.headers.range, size);
    entry.status = range === undefined ? 416 : range ? 206 : 200;
    const [first, last] = range ?? [0, size - 1];
    response.writeHead(entry.status, {
      'Content-Type': TYPES[path.extname(Buffer.isBuffer(file) ? pathname : file)] ?? 'application/octet-stream',
      'Content-Length': range === undefined ? 0 : last - first + 1,
      ...(fault.noRanges ? {} : { 'Accept-Ranges': 'bytes', ETag: `"${size}"` }),
      ...(range ? { 'Content-Range': `bytes ${first}-${last}/${size}` } : {}),
      'Cache-Control': 'no-store',
      ...headers, ...fault.headers,
    });
    if (range === undefined || request.method === 'HEAD') { response.end(); return; }
    if (Buffer.isBuffer(file)) {
      const body = Buffer.from(file.subarray(first, last + 1));
      if (fault.flipByteAt >= first && fault.flipByteAt <= last) body[fault.flipByteAt - first] ^= 0xff;
      entry.sent = body.length;
      response.end(body);
      return;
    }
    sendBody(response, file, first, last, fault).then((sent) => { entry.sent = sent; }, () => response.destroy());
  });

  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    log,
    /** Log entries for one path. */
    requests: (pathname) => log.filter((entry) => entry.path === pathname),
    /** Most answers to one path at a time since the log was cleared. */
    peak: (pathname) => peaks.get(pathname) ?? 0,
    clearLog: () => { log.length = 0; peaks.clear(); },
    fault: (pathname, fault) => faults.push({ times: Infinity, ...fault, pathname }),
    clearFaults: () => { faults.length = 0; },
    /** Off: connections are refused by destroying them, as when the machine is offline; `under` limits that to some paths. */
    setOnline: (value, under = '/') => { offline = value ? null : under; },
    close: () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }),
  };
}
