/**
 * One download of a model per origin, however many tabs ask for it: who has the model's Web Lock fetches, who waits sees
 * its progress and then reads what was stored. The browser frees the lock of a tab that closes or crashes, and the next
 * one goes on from the parts that are there. Principal function: `loadModel`. Must not know who shares an engine.
 */
import { abortedError, endSoon, withoutQuery, type CallOptions, type WorkerClient } from './client.js';
import type { Requests, WorkerEvent } from './protocol.js';
import { LamplightError, type EngineOptions, type Progress } from './types.js';

/** How those who wait hear of the download. */
const CHANNEL = 'lamplight:downloads';
interface Report {
  name: string;
  progress: Progress;
}

/** How much of the bar the wait for another tab's download may fill; reading what it stored is the rest. */
const WAIT_SHARE = 0.9;

/**
 * A name that is the same for equal models, whatever their addresses' queries (signatures expire) and whichever of
 * several files was given; none for local files. It is the store's key wherever both can be.
 */
export function modelName(source: Requests['load']['body']['source']): string | undefined {
  if (!('headers' in source)) return undefined;
  if (source.cacheKey !== undefined) return source.cacheKey;
  const urls = source.kind === 'urls' ? source.files.map(({ url }) => url) : [source.url];
  const bare = urls.map((url) => withoutQuery(url).replace(/-\d{5}(-of-\d{5}\.gguf)$/, '-00001$1')).sort();
  const config = bare.find((url) => url.endsWith('/config.json'));
  return config?.replace(/config\.json$/, '') ?? bare[0];
}

/** Passes what is heard of a load on to the page, where `fraction` never falls, whatever restarts below it; says at once that it begins. */
export function loadCall({ signal, onProgress, onWarning }: Pick<EngineOptions, 'signal' | 'onProgress' | 'onWarning'>): CallOptions {
  let highest = 0;
  const report = (progress: Progress) => {
    highest = Math.max(highest, progress.fraction);
    onProgress?.({ ...progress, fraction: highest });
  };
  report({ phase: 'starting', loadedBytes: 0, totalBytes: 0, fraction: 0 });
  return {
    signal,
    onEvent: (event) => {
      // The caller has been told that it ended; the worker has yet to hear of it.
      if (signal?.aborted) return;
      if (event.kind === 'progress') report(event.progress);
      else if (event.kind === 'warning') onWarning?.(event.warning);
    },
  };
}

/** Sends the request `load` (or `download`), in its turn among the tabs that want to download the same model. */
export async function loadModel<T extends 'load' | 'download' = 'load'>(
  client: WorkerClient, body: Requests['load']['body'], { signal, onEvent }: CallOptions, type = 'load' as T,
): Promise<Requests[T]['result']> {
  const name = body.cache ? modelName(body.source) : undefined;
  const turn = name === undefined ? FREE : await takeTurn(client, name, signal, (progress) => onEvent?.({ kind: 'progress', progress }));
  const { begun, report, release } = turn;
  try {
    return await client.call(type, body, {
      signal,
      onEvent: (event: WorkerEvent) => {
        if (event.kind !== 'progress') return onEvent?.(event);
        const { progress } = event;
        // From here on every part is stored: others can read.
        if (progress.phase === 'checking' || progress.phase === 'ready') release();
        else report(progress);
        onEvent?.({ kind: 'progress', progress: { ...progress, fraction: begun + (1 - begun) * progress.fraction } });
      },
    });
  } finally {
    release();
  }
}

/**
 * Waits for a load. Nothing of one that failed is of use: its worker would keep memory and perhaps a download alive. An abort is heard
 * at once, and the worker ends when it has stored what it has whole.
 */
export async function endUnlessDone<T>(client: WorkerClient, loaded: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  const stopped = new Promise<never>((_, reject) => {
    signal?.addEventListener('abort', () => reject(abortedError(signal)), { once: true });
  });
  try {
    return await Promise.race([loaded, stopped]);
  } catch (error) {
    const reason = error instanceof LamplightError ? error : new LamplightError('internal', String(error));
    if (reason.code === 'aborted') endSoon(client, loaded, reason);
    else client.close(reason);
    throw reason;
  }
}

/** The right to download a model. */
interface Turn {
  /** Share of the bar that the wait has filled. */
  begun: number;
  /** Tells those who wait. */
  report(progress: Progress): void;
  /** Lets the next one go; once is enough. */
  release(): void;
}

/** Where nothing has to be waited for, and nobody waits. */
const FREE: Turn = { begun: 0, report: () => undefined, release: () => undefined };

async function takeTurn(
  client: WorkerClient, name: string, signal: AbortSignal | undefined, onProgress: (progress: Progress) => void,
): Promise<Turn> {
  // Insecure pages have no locks, and sandboxed frames may not use them: each then downloads for itself.
  const manager = globalThis.navigator?.locks;
  if (!manager || typeof BroadcastChannel === 'undefined') return FREE;
  const lock = `lamplight:download:${name}`;
  let begun = 0;
  let release: (() => void) | null;
  try {
    release = await hold(manager, lock, { ifAvailable: true });
  } catch {
    return FREE;
  }
  const channel = new BroadcastChannel(CHANNEL);
  if (!release) {
    // Where storage is broken nothing is stored: then this tab downloads for itself.
    const isStored = async () => (await client.call('models', {}, { signal }).catch(() => []))
      .some((model) => model.key === name && model.complete);
    try {
      // Tabs that only read need not wait for one another.
      if (await isStored()) return FREE;
      onProgress({ phase: 'waiting', loadedBytes: 0, totalBytes: 0, fraction: 0 });
      channel.onmessage = ({ data }: MessageEvent<Report>) => {
        if (data.name !== name) return;
        begun = Math.max(begun, WAIT_SHARE * data.progress.fraction);
        onProgress({ ...data.progress, phase: 'waiting', fraction: begun });
      };
      release = await hold(manager, lock, { signal });
      if (await isStored()) release?.();
    } catch (error) {
      release?.();
      throw signal?.aborted ? abortedError(signal) : error;
    } finally {
      if (!release) channel.close();
    }
  }
  channel.onmessage = null;
  let open = true;
  return {
    begun,
    report(progress) {
      if (open) channel.postMessage({ name, progress } satisfies Report);
    },
    release() {
      open = false;
      channel.close();
      release?.();
    },
  };
}

/** Takes a lock until the function that this resolves to is called; null when it is another's and none shall be waited for. */
function hold(manager: LockManager, name: string, options: LockOptions): Promise<(() => void) | null> {
  return new Promise((resolve, reject) => {
    manager.request(name, options, (lock) => {
      if (lock) return new Promise<void>((release) => resolve(release));
      resolve(null);
    }).catch(reject);
  });
}
