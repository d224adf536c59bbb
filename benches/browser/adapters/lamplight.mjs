// Lamplight itself, used as any page uses it.
import { createEngine } from '/pkg/index.js';

export async function load(url, { backend, threads, nCtx }) {
  const engine = await createEngine({ model: url, backend: backend === 'webgpu' ? 'webgpu' : 'cpu', threads, contextLength: nCtx });
  const { adapter, backend: used, load: { fromCache } } = engine.info;
  return { engine, info: { memory: engine.info.memory, gpu: engine.info.gpu, backend: used, adapter: adapter?.description || adapter?.architecture, f16: adapter?.f16, fromCache } };
}

/** A call of another prompt: what follows finds nothing of it in the KV cache. */
export async function reset({ engine }) {
  await engine.forward([0]);
}

export async function generate({ engine }, { ids, n, onToken }) {
  let usage;
  const stream = await engine.completions.create({ prompt: ids, temperature: 0, max_tokens: n, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0].text) onToken();
    usage = chunk.usage ?? usage;
  }
  if (usage.cached_tokens > 1) throw new Error(`${usage.cached_tokens} prompt tokens came from the KV cache`);
  return { count: usage.completion_tokens };
}
