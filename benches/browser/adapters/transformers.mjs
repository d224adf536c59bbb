// Transformers.js on onnxruntime-web. Takes an ONNX folder made from the same weights (make_onnx.py).
import { AutoModelForCausalLM, Tensor, env } from '/node_modules/@huggingface/transformers/dist/transformers.min.js';

export async function load(url, { backend, threads, dtype }) {
  const { origin, pathname } = new URL(url, location.href);
  const parts = pathname.replace(/\/$/, '').split('/');
  const name = parts.pop();
  // "Remote" is this server, so that the library's own browser cache is in use; its wasm would come from a CDN by default.
  env.allowLocalModels = false;
  env.remoteHost = `${origin}${parts.join('/')}/`;
  env.remotePathTemplate = '{model}/';
  const { wasm } = env.backends.onnx;
  const build = `${origin}/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify`;
  wasm.wasmPaths = { mjs: `${build}.mjs`, wasm: `${build}.wasm` };
  wasm.numThreads = threads;
  const device = backend === 'webgpu' ? 'webgpu' : 'wasm';
  const model = await AutoModelForCausalLM.from_pretrained(name, { dtype, device });
  return { model, info: { backend: device === 'wasm' ? 'cpu' : device, dtype, threads: wasm.numThreads } };
}

export async function generate({ model }, { ids, n, onToken }) {
  const tensor = (value) => new Tensor('int64', BigInt64Array.from(ids, (id) => BigInt(value(id))), [1, ids.length]);
  let count = 0;
  let prompt = true;
  const streamer = {
    put() {
      // The first call hands back the prompt.
      if (prompt) { prompt = false; return; }
      count += 1;
      onToken();
    },
    end() {},
  };
  await model.generate({
    inputs: tensor((id) => id), attention_mask: tensor(() => 1), max_new_tokens: n, min_new_tokens: n, do_sample: false, streamer,
  });
  return { count };
}
