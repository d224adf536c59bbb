/**
 * Small facts that a browser need not find out twice, by key, in a database of their own: what was measured of a GPU.
 * Where there is no storage nothing is kept, and nobody is told.
 */
const STORE = 'facts';

function open(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open('lamplight-facts', 1);
    request.onupgradeneeded = () => { request.result.createObjectStore(STORE); };
    request.onsuccess = () => { resolve(request.result); };
    request.onerror = request.onblocked = () => { reject(request.error ?? new Error('blocked')); };
  });
}

async function ask<T>(mode: IDBTransactionMode, what: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | undefined> {
  try {
    const database = await open();
    try {
      return await new Promise<T>((resolve, reject) => {
        const request = what(database.transaction(STORE, mode).objectStore(STORE));
        request.onsuccess = () => { resolve(request.result); };
        request.onerror = () => { reject(request.error ?? new Error('failed')); };
      });
    } finally {
      database.close();
    }
  } catch {
    return undefined;
  }
}

/** What was kept under `key`. */
export function kept(key: string): Promise<unknown> {
  return ask<unknown>('readonly', (store) => store.get(key));
}

/** Keeps `value` under `key`. */
export async function keep(key: string, value: string): Promise<void> {
  await ask('readwrite', (store) => store.put(value, key));
}
