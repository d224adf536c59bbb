// IndexedDB Blobs against OPFS sync access handles, as a store of parts: write and read rates in a worker of Chromium, in turns.
//   node benches/browser/opfs.mjs [rounds]    (CHROMIUM_BIN: the browser)
import { launch, openPage, startPackageServer } from '../../tests/browser/harness.mjs';

/** Runs in the worker. */
async function measure(rounds) {
  const [PART, COUNT] = [16 * 2 ** 20, 12];
  const parts = Array.from({ length: COUNT }, () => {
    const part = new Uint8Array(PART);
    for (let at = 0; at < PART; at += 65536) crypto.getRandomValues(part.subarray(at, at + 65536));
    return part;
  });
  const done = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const open = indexedDB.open('bench');
  open.onupgradeneeded = () => open.result.createObjectStore('blobs');
  const database = await done(open);
  const root = await navigator.storage.getDirectory();
  const handle = async (index, create) => (await root.getFileHandle(`part${index}`, { create })).createSyncAccessHandle();
  const stores = {
    indexedDb: {
      write: (index) => new Promise((resolve, reject) => {
        const transaction = database.transaction('blobs', 'readwrite');
        transaction.objectStore('blobs').put(new Blob([parts[index]]), index);
        transaction.oncomplete = resolve;
        transaction.onabort = reject;
      }),
      read: async (index) => new Uint8Array(await (await done(database.transaction('blobs').objectStore('blobs').get(index))).arrayBuffer()),
      clear: () => done(database.transaction('blobs', 'readwrite').objectStore('blobs').clear()),
    },
    opfs: {
      async write(index) {
        const file = await handle(index, true);
        file.write(parts[index], { at: 0 });
        file.flush();
        file.close();
      },
      async read(index) {
        const file = await handle(index, false);
        const bytes = new Uint8Array(file.getSize());
        file.read(bytes, { at: 0 });
        file.close();
        return bytes;
      },
      async readFile(index) {
        const file = await (await root.getFileHandle(`part${index}`)).getFile();
        return new Uint8Array(await file.arrayBuffer());
      },
      clear: () => Promise.all(parts.map((_, index) => root.removeEntry(`part${index}`))),
    },
  };
  const rates = { indexedDb: { write: [], read: [] }, opfs: { write: [], read: [], readFile: [] } };
  for (let round = 0; round < rounds; round++) {
    for (const [name, store] of Object.entries(stores)) {
      for (const what of Object.keys(rates[name])) {
        const start = performance.now();
        for (let index = 0; index < COUNT; index++) {
          const bytes = await store[what](index);
          if (what !== 'write' && bytes[PART - 1] !== parts[index][PART - 1]) throw new Error('what was read is not what was written');
        }
        rates[name][what].push(COUNT * PART / 1e3 / (performance.now() - start));
      }
      await store.clear();
    }
  }
  return rates;
}

const rounds = Number(process.argv[2] ?? 8);
const server = await startPackageServer();
const browser = await launch({ gpu: 'none' });
try {
  const page = await openPage(browser, server);
  const rates = await page.evaluate(([code, count]) => new Promise((resolve, reject) => {
    const source = `(${code})(${count}).then(postMessage, (error) => setTimeout(() => { throw error; }))`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })));
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => reject(new Error(message));
  }), [measure.toString(), rounds]);
  for (const [name, of] of Object.entries(rates)) {
    for (const [what, values] of Object.entries(of)) {
      const sorted = values.toSorted((a, b) => a - b);
      const [least, median, most] = [0, sorted.length >> 1, sorted.length - 1].map((at) => sorted[at].toFixed(0));
      console.log(`${name.padEnd(10)} ${what.padEnd(8)} ${median.padStart(6)} MB/s (${least} to ${most})`);
    }
  }
} finally {
  await browser.close();
  await server.close();
}
