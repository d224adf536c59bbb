/**
 * The worker's entry: instantiates the wasm core and hands the message port over to it (a gloo-worker actor).
 * Whatever fails on the way, or later outside of any request, is told to the page.
 */
import init, { start } from './lamplight.js';
import type { FromWorker, ToWorker } from './protocol.js';

/** The part of `DedicatedWorkerGlobalScope` used here (the package is compiled against the page's types). */
interface Scope {
  postMessage(message: FromWorker): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
  addEventListener(type: 'unhandledrejection', listener: (event: PromiseRejectionEvent) => void): void;
}
const scope = globalThis as unknown as Scope;

scope.onmessage = ({ data }) => {
  if (typeof data !== 'object' || data === null || !('start' in data)) return;
  // One start is enough; from here on the actor takes `onmessage` over.
  scope.onmessage = null;
  const { wasmUrl } = data.start;
  init(wasmUrl === undefined ? undefined : { module_or_path: wasmUrl }).then(start).catch((error: unknown) => {
    scope.postMessage({
      failed: `the wasm core could not be started (${String(error)}); the page's Content-Security-Policy must allow `
        + "'wasm-unsafe-eval', and lamplight_bg.wasm must be where worker.js expects it (see the option wasmUrl)",
    });
  });
};

// A trap inside a promise is not an "error" event by itself.
scope.addEventListener('unhandledrejection', ({ reason }) => {
  scope.postMessage({ failed: `the worker failed: ${reason instanceof Error ? reason.message : String(reason)}` });
});
