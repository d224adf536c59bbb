/**
 * The worker's entry: instantiates the wasm core and hands the message port over to it (a gloo-worker actor).
 * Whatever fails on the way, or later outside of any request, is told to the page. The same script runs the other
 * workers of a pool, which are told by the first one what to do (`pool.ts`).
 */
import { askForFeatures } from './gpu-features.js';
import { endProfile, startProfile, watchKernels } from './kernel-clock.js';
import init, { serveShard, start } from './lamplight.js';
import { keep, kept } from './kept.js';
import { OriginFiles } from './origin-files.js';
import { pipelinesAhead } from './pipelines-ahead.js';
import { Shard, Team, type StartShard } from './pool.js';
import type { FromWorker, ToWorker } from './protocol.js';

/** The part of `DedicatedWorkerGlobalScope` used here (the package is compiled against the page's types). */
interface Scope {
  postMessage(message: FromWorker): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
  addEventListener(type: 'unhandledrejection', listener: (event: PromiseRejectionEvent) => void): void;
}
const scope = globalThis as unknown as Scope;

scope.onmessage = ({ data }) => {
  if (typeof data !== 'object' || data === null) return;
  if ('startShard' in data) return startShard((data as unknown as { startShard: StartShard }).startShard);
  if (!('start' in data)) return;
  // One start is enough; from here on the actor takes `onmessage` over.
  scope.onmessage = null;
  const { wasmUrl } = data.start;
  const { GPUAdapter } = globalThis as { GPUAdapter?: Parameters<typeof askForFeatures>[0] };
  askForFeatures(GPUAdapter, ['subgroups', 'timestamp-query']);
  watchKernels();
  init(wasmUrl === undefined ? undefined : { module_or_path: wasmUrl }).then(() => {
    start({ startTeam: Team.start, openFiles: OriginFiles.open, startProfile, endProfile, kept, keep, pipelinesAhead });
  }).catch((error: unknown) => {
    scope.postMessage({
      failed: `the wasm core could not be started (${String(error)}); the page's Content-Security-Policy must allow `
        + "'wasm-unsafe-eval', and lamplight_bg.wasm must be where worker.js expects it (see the option wasmUrl)",
    });
  });
};

/** Makes this one of a pool's other workers. */
function startShard({ module, link }: StartShard): void {
  const post = scope.postMessage.bind(scope) as (message: unknown) => void;
  const shard = new Shard(link, post);
  const core = init({ module_or_path: module });
  core.catch((error: unknown) => post({ failed: `the wasm core could not be started (${String(error)})` }));
  scope.onmessage = ({ data }) => {
    const command = data as unknown as Parameters<Shard['receive']>[1];
    core.then(() => shard.receive(serveShard, command), () => undefined);
  };
}

// A trap inside a promise is not an "error" event by itself.
scope.addEventListener('unhandledrejection', ({ reason }) => {
  scope.postMessage({ failed: `the worker failed: ${reason instanceof Error ? reason.message : String(reason)}` });
});
