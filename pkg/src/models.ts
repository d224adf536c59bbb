/** The models kept in this browser: asked of a short-lived worker, since the store is the core's. */
import { pack, unpack } from './archive.js';
import { WorkerClient } from './client.js';
import { checkUpdate, rollback } from './manifest.js';
import type { RequestType, Requests } from './protocol.js';
import { persist, storageState } from './storage.js';
import { LamplightError, type AssetOptions, type CachedModel, type ModelCache } from './types.js';

/** A worker without a model costs a few megabytes: keep it for a burst of calls, not for ever. */
const IDLE_MS = 5000;

/** A view on the cached models, for pages that must say where `worker.js` and the wasm file are. */
export function createModelCache(options: AssetOptions = {}): ModelCache {
  let client: WorkerClient | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;

  async function ask<T extends RequestType>(type: T, body: Requests[T]['body']): Promise<Requests[T]['result']> {
    clearTimeout(timer);
    client ??= new WorkerClient(options);
    const current = client;
    try {
      return await current.call(type, body);
    } catch (error) {
      if (error instanceof LamplightError && error.code === 'worker-failed') client = undefined;
      throw error;
    } finally {
      if (current.pendingCalls === 0) {
        clearTimeout(timer);
        timer = setTimeout(() => {
          current.close(new LamplightError('disposed', 'the worker was idle'));
          if (client === current) client = undefined;
        }, IDLE_MS);
      }
    }
  }

  const list = (): Promise<CachedModel[]> => ask('models', {});
  return {
    list,
    async size() {
      return (await list()).reduce((sum, model) => sum + model.bytesStored, 0);
    },
    async delete(key) {
      await ask('deleteModel', { key });
    },
    verify: (key) => ask('verifyModel', { key }),
    async pin(key, pinned = true) {
      await ask('pinModel', { key, pinned });
    },
    async export(key) {
      return pack(await ask('exportModel', { key }));
    },
    async import(archive) {
      const files = await unpack(archive);
      await ask('importModel', { files });
      const { key, model } = files[0]!.record;
      return model || key;
    },
    rollback: async (model) => rollback(model),
    checkUpdate,
    storage: storageState,
    persist,
  };
}

/** What is stored, asked of a worker of the moment. */
export async function listStored(options: AssetOptions): Promise<CachedModel[]> {
  const client = new WorkerClient(options);
  try {
    return await client.call('models', {});
  } finally {
    client.close(new LamplightError('disposed', 'the list was read'));
  }
}

/** The models kept in this browser. */
export const models: ModelCache = /* @__PURE__ */ createModelCache();
