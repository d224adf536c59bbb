/** What this browser offers. Looked up on the page: no worker, no wasm, nothing downloaded. */
import { storageState } from './storage.js';
import type { AdapterInfo, Capabilities } from './types.js';

/** The parts of WebGPU's types that are read here; not every TypeScript library has them. */
interface GpuAdapter {
  features: { has(name: string): boolean };
  limits: Record<keyof AdapterInfo['limits'], number>;
  info?: { vendor: string; architecture: string; description: string; isFallbackAdapter?: boolean };
  isFallbackAdapter?: boolean;
}
interface Gpu {
  requestAdapter(options?: object): Promise<GpuAdapter | null>;
}

/** A module of one function that uses one SIMD instruction: `(func (drop (i8x16.splat (i32.const 0))))`. */
const SIMD_MODULE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11,
]);

/** What this browser offers, without loading a model. Works everywhere, also where there is no browser. */
export async function capabilities(): Promise<Capabilities> {
  const nav = globalThis.navigator as (Navigator & { gpu?: Gpu; deviceMemory?: number }) | undefined;
  const found = await adapter(nav?.gpu);
  return {
    webgpu: typeof found !== 'string',
    ...(typeof found === 'string' ? { webgpuReason: found } : { adapter: found }),
    simd: typeof WebAssembly !== 'undefined' && WebAssembly.validate(SIMD_MODULE),
    crossOriginIsolated: globalThis.crossOriginIsolated ?? false,
    hardwareConcurrency: nav?.hardwareConcurrency ?? 1,
    deviceMemoryGiB: nav?.deviceMemory,
    storage: await storageState(),
  };
}

/** The adapter's facts, or why there is none. */
async function adapter(gpu: Gpu | undefined): Promise<AdapterInfo | string> {
  if (!gpu) {
    return globalThis.isSecureContext === false
      ? 'WebGPU needs a secure page (https, or localhost)'
      : 'this browser has no WebGPU';
  }
  // Right after start-up some browsers say "none" once and mean "not yet".
  for (const delay of [0, 250, 1000]) {
    if (delay) await new Promise((done) => setTimeout(done, delay));
    try {
      const found = await gpu.requestAdapter({ powerPreference: 'high-performance' });
      if (found) return describe(found);
    } catch (error) {
      return `asking for a GPU adapter failed: ${String(error)}`;
    }
  }
  return 'the browser has WebGPU, but no GPU adapter for it';
}

function describe(found: GpuAdapter): AdapterInfo {
  const { info, limits } = found;
  return {
    vendor: info?.vendor ?? '',
    architecture: info?.architecture ?? '',
    description: info?.description ?? '',
    isFallback: info?.isFallbackAdapter ?? found.isFallbackAdapter ?? false,
    f16: found.features.has('shader-f16'),
    subgroups: found.features.has('subgroups'),
    limits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    },
  };
}
