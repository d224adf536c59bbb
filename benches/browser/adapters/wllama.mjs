// wllama: llama.cpp compiled to WebAssembly, with its WebGPU backend. Takes the same GGUF file.
import { Wllama } from '/node_modules/@wllama/wllama/esm/index.min.js';

export async function load(url, { backend, threads, nCtx }) {
  const lines = [];
  const log = (...parts) => { lines.push(parts.filter((part) => typeof part === 'string').join(' ')); };
  const wllama = new Wllama({ default: '/node_modules/@wllama/wllama/esm/wasm/wllama.wasm' }, { logger: { debug: log, log, warn: log, error: log } });
  // With batches of its usual 512 its WebGPU backend aborts on lavapipe ("RuntimeError: (ABORT)") from prompts of 512 tokens on; with these only of thousands.
  const batch = backend === 'webgpu' ? { n_batch: 128, n_ubatch: 128 } : {};
  await wllama.loadModelFromUrl(url, { n_ctx: nCtx, n_threads: threads, n_parallel: 1, ...batch, n_gpu_layers: backend === 'webgpu' ? 99_999 : 0 });
  // Without shader-f16 it computes on the CPU and says so only here.
  const onGpu = lines.some((line) => /webgpu.*buffer size|offloaded [1-9]/i.test(line));
  return { wllama, info: { backend: onGpu ? 'webgpu' : 'cpu', threads: wllama.getNumThreads() } };
}

/** Text in, no ids out: an array of ids as prompt fails, so the text of exactly these ids is sent. */
export async function generate({ wllama }, { text, n, onToken }) {
  let timings;
  await wllama.createCompletion({
    prompt: text, max_tokens: n, temperature: 0, top_k: 1, ignore_eos: true, cache_prompt: false, timings_per_token: true, stream: true,
    onData(chunk) {
      timings = chunk.timings ?? timings;
      const choice = chunk.choices?.[0];
      if (choice?.text && choice.finish_reason == null) onToken();
    },
  });
  return { count: timings?.predicted_n };
}
