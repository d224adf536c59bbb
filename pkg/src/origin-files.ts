/**
 * Parts of models as files of the origin's private file system, one for each hash. Principal class: `OriginFiles`. A file
 * is written beside, flushed, and then given its name, so that one of that name is whole; it counts from when the database
 * refers to it, and what the database does not refer to is swept. Must not know what the bytes are.
 */
import type { PartStore } from './types.js';

/** What the page's types lack of these workers' file handles. */
interface SyncHandle {
  read(target: Uint8Array, options: { at: number }): number;
  write(source: Uint8Array, options: { at: number }): number;
  getSize(): number;
  flush(): void;
  close(): void;
}
interface FileHandle {
  getFile(): Promise<File>;
  createSyncAccessHandle(options?: { mode: 'read-only' }): Promise<SyncHandle>;
  move(name: string): Promise<void>;
}
interface Directory {
  keys(): AsyncIterableIterator<string>;
  getFileHandle(name: string, options?: { create: true }): Promise<FileHandle>;
  removeEntry(name: string): Promise<void>;
}

type Rates = NonNullable<PartStore['opfs']>;

const DIRECTORY = 'lamplight';
/** Held by all who write until the database refers to what they wrote, and alone by who sweeps. */
const LOCK = 'lamplight:files';
/** A sweep waits so long for who writes, in milliseconds; the next one does it otherwise. */
const PATIENCE_MS = 2000;

/** Bytes that the stores are measured with, and how often. */
const SAMPLE_BYTES = 4 << 20;
const ROUNDS = 2;
/** Files must be so much faster to be chosen: they block their worker while they are read and written. */
const WORTH = 1.25;

async function directory(): Promise<Directory> {
  const root = await navigator.storage.getDirectory();
  return await root.getDirectoryHandle(DIRECTORY, { create: true }) as unknown as Directory;
}

/** Takes the lock; the function that this resolves to gives it back. */
function lock(mode: LockMode, signal?: AbortSignal): Promise<() => void> {
  return new Promise((resolve, reject) => {
    navigator.locks.request(LOCK, { mode, signal }, () => new Promise<void>((release) => resolve(release))).catch(reject);
  });
}

async function write(name: string, bytes: Uint8Array): Promise<FileHandle> {
  const file = await (await directory()).getFileHandle(name, { create: true });
  const handle = await file.createSyncAccessHandle();
  try {
    let at = 0;
    while (at < bytes.length) {
      const n = handle.write(bytes.subarray(at), { at });
      if (n === 0) throw new DOMException('nothing more can be written', 'QuotaExceededError');
      at += n;
    }
    handle.flush();
  } finally {
    handle.close();
  }
  return file;
}

async function read(name: string): Promise<Uint8Array> {
  const file = await (await directory()).getFileHandle(name);
  let handle: SyncHandle;
  try {
    // A writer may hold it.
    handle = await file.createSyncAccessHandle({ mode: 'read-only' });
  } catch {
    return new Uint8Array(await (await file.getFile()).arrayBuffer());
  }
  try {
    const bytes = new Uint8Array(handle.getSize());
    return bytes.subarray(0, handle.read(bytes, { at: 0 }));
  } finally {
    handle.close();
  }
}

async function remove(name: string): Promise<void> {
  // Another may have removed it, or hold it: it is swept later then.
  await (await directory()).removeEntry(name).catch(() => undefined);
}

/** The files of this origin, for one worker. */
export class OriginFiles {
  /** Gives back the locks of what was written and is not settled. */
  private readonly writing = new Map<string, () => void>();
  private sweeping: (() => void) | undefined;
  private measured: Promise<PartStore> | undefined;

  /** `undefined` where the browser lacks something of what this needs, or denies it. */
  static async open(): Promise<OriginFiles | undefined> {
    try {
      const { FileSystemFileHandle: Handle, FileSystemSyncAccessHandle: Access } = globalThis as unknown as Record<string, { prototype: object } | undefined>;
      // Without modes of access a part would have one reader at a time, and engines have several workers.
      if (!Handle || !Access || !('mode' in Access.prototype) || !('move' in Handle.prototype) || !navigator.locks) return undefined;
      await directory();
      return new OriginFiles();
    } catch {
      return undefined;
    }
  }

  /** Writes a file. Until `settle` nobody sweeps it. */
  async put(hash: string, bytes: Uint8Array): Promise<void> {
    const name = `${hash}.${crypto.randomUUID()}`;
    const release = await lock('shared');
    try {
      await (await write(name, bytes)).move(hash);
    } catch (error) {
      await remove(name);
      release();
      throw error;
    }
    this.settle(hash);
    this.writing.set(hash, release);
  }

  /** The database refers to the file, or never will. */
  settle(hash: string): void {
    this.writing.get(hash)?.();
    this.writing.delete(hash);
  }

  async get(hash: string): Promise<Uint8Array | undefined> {
    return read(hash).catch(() => undefined);
  }

  /** A reference for the page. */
  async file(hash: string): Promise<Blob | undefined> {
    return (await directory()).getFileHandle(hash).then((file) => file.getFile()).catch(() => undefined);
  }

  /** All files, but none while others write. Nobody writes until `delete`. */
  async list(): Promise<string[]> {
    const names: string[] = [];
    try {
      const release = await lock('exclusive', AbortSignal.timeout(PATIENCE_MS));
      this.sweeping?.();
      this.sweeping = release;
      for await (const name of (await directory()).keys()) names.push(name);
    } catch {
      // It is swept later.
    }
    return names;
  }

  async delete(names: string[]): Promise<void> {
    await Promise.all(names.map(remove)).catch(() => undefined);
    this.sweeping?.();
    this.sweeping = undefined;
  }

  /** How fast files and the database are here, and which shall be used. */
  measure(): Promise<PartStore> {
    this.measured ??= measure().catch(() => ({ store: 'indexeddb' as const }));
    return this.measured;
  }
}

async function measure(): Promise<PartStore> {
  const sample = new Uint8Array(SAMPLE_BYTES);
  for (let at = 0; at < SAMPLE_BYTES; at += 65536) crypto.getRandomValues(sample.subarray(at, at + 65536));
  const name = `measure.${crypto.randomUUID()}`;
  const done = <T>(request: IDBRequest<T>) => new Promise<T>((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const opening = indexedDB.open(name);
  opening.onupgradeneeded = () => opening.result.createObjectStore('blobs');
  const database = await done(opening);
  const stores = {
    indexedDb: {
      write: () => new Promise<unknown>((resolve, reject) => {
        const transaction = database.transaction('blobs', 'readwrite');
        transaction.objectStore('blobs').put(new Blob([sample]), 0);
        transaction.oncomplete = resolve;
        transaction.onabort = reject;
      }),
      read: async (): Promise<unknown> => (await done<Blob>(database.transaction('blobs').objectStore('blobs').get(0))).arrayBuffer(),
    },
    opfs: { write: () => write(name, sample), read: () => read(name) },
  };
  const release = await lock('shared');
  try {
    const spent = { indexedDb: { write: 0, read: 0 }, opfs: { write: 0, read: 0 } };
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const store of ['indexedDb', 'opfs'] as const) {
        for (const what of ['write', 'read'] as const) {
          const started = performance.now();
          await stores[store][what]();
          spent[store][what] += performance.now() - started;
        }
      }
    }
    const rates = ({ write, read }: Rates): Rates => {
      const rate = (ms: number) => Math.round(ROUNDS * SAMPLE_BYTES / 1e3 / Math.max(ms, 1e-3));
      return { write: rate(write), read: rate(read) };
    };
    const total = ({ write, read }: Rates) => write + read;
    const store = total(spent.opfs) * WORTH < total(spent.indexedDb) ? 'opfs' : 'indexeddb';
    return { store, indexedDb: rates(spent.indexedDb), opfs: rates(spent.opfs) };
  } finally {
    database.close();
    indexedDB.deleteDatabase(name);
    await remove(name);
    release();
  }
}
