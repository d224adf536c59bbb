/** The models kept in this browser: asked of short-lived workers, since the store and the download are the core's. */
import { pack, unpack } from './archive.js';
import { WorkerClient } from './client.js';
import { endUnlessDone, loadCall, loadModel, modelName } from './download.js';
import { expect, isManifest, latest, newRelease, rollback, type Release } from './manifest.js';
import type { RequestType, Requests } from './protocol.js';
import { invalid, loadRequest } from './request.js';
import { persist, persistOnce, storageState } from './storage.js';
import { LamplightError, type AssetOptions, type CachedModel, type DownloadOptions, type ModelCache, type ModelSource } from './types.js';

/** A worker without a model costs a few megabytes: keep it for a burst of calls, not for ever. */
const IDLE_MS = 5000;

/** A view on the cached models, for pages that must say where `worker.js` and the wasm file are. */
export function createModelCache(assets: AssetOptions = {}): ModelCache {
  let client: WorkerClient | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;

  async function ask<T extends RequestType>(type: T, body: Requests[T]['body']): Promise<Requests[T]['result']> {
    clearTimeout(timer);
    client ??= new WorkerClient(assets);
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

  /** In a worker of its own, which ends with it. */
  async function download(model: ModelSource, options: DownloadOptions = {}, release?: Release): Promise<CachedModel> {
    const call = loadCall(options);
    const chosen = isManifest(model) ? release ?? await latest(model, call.signal) : undefined;
    if (chosen) expect(chosen);
    const body = await loadRequest({ ...options, model, cache: true }, list, chosen);
    const key = modelName(body.source);
    if (key === undefined) throw invalid('only a model at an address can be downloaded', 'model');
    const client = new WorkerClient({ ...assets, resolveUrl: options.resolveUrl });
    await endUnlessDone(client, loadModel(client, body, call, 'download'), call.signal);
    client.close(new LamplightError('disposed', 'the download is done'));
    void persistOnce();
    const found = (await list()).find((entry) => entry.key === key);
    if (!found) throw new LamplightError('storage', 'the model was removed from storage while it was downloaded');
    return found;
  }

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
    download: (model, options) => download(model, options),
    rollback: async (model) => rollback(model),
    checkUpdate: async (model) => (await newRelease(model))?.manifest.version,
    async update(model, options = {}) {
      const release = await newRelease(model, options.signal);
      if (release) await download(model, options, release);
      return release?.manifest.version;
    },
    async storage() {
      const [state, parts] = await Promise.all([storageState(), ask('partStore', {}).catch(() => undefined)]);
      return state && { ...state, ...parts && { parts } };
    },
    persist,
  };
}

/** The models kept in this browser. */
export const models: ModelCache = /* @__PURE__ */ createModelCache();
