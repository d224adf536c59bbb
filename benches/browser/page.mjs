// The same page and clock for every engine; run.mjs calls these two. An adapter exports
//   load(url, options)                          -> a handle, once the engine is ready to run; `handle.info` is reported
//   reset(handle)                               -> forgets the prompt before (optional)
//   generate(handle, { ids, text, n, onToken }) -> { count }: greedy; onToken() as each token becomes visible
let adapter;
let handle;

globalThis.bench = {
  /** Milliseconds from asking for the engine's code to ready. */
  async load(name, url, options) {
    const started = performance.now();
    adapter = await import(`/adapters/${name}.mjs`);
    handle = await adapter.load(url, options);
    return { ms: performance.now() - started, info: handle.info ?? {}, isolated: globalThis.crossOriginIsolated };
  },
  /** Times of the tokens in milliseconds since the request. */
  async generate(request) {
    await adapter.reset?.(handle);
    const times = [];
    const started = performance.now();
    const { count } = await adapter.generate(handle, { ...request, onToken: () => times.push(performance.now() - started) });
    return { times, count: count ?? times.length, end: performance.now() - started };
  },
};
globalThis.ready = true;
