/**
 * GPU pipelines compiled side by side. The core knows only `createComputePipeline` (wgpu has no other), of which browsers compile one
 * after the other. Chromium gives a pipeline at once that it has from `createComputePipelineAsync` already.
 */

/** Has the pipelines that `make` asks for compiled; it gets none of them, and asks again when this is done. */
export async function pipelinesAhead(make: () => void, { navigator, GPUDevice } = globalThis): Promise<void> {
  // Other browsers would compile them a second time.
  if (!('userAgentData' in navigator)) return;
  const { prototype } = GPUDevice;
  const { createComputePipeline } = prototype;
  const coming: Promise<GPUComputePipeline>[] = [];
  prototype.createComputePipeline = function (this: GPUDevice, descriptor) {
    coming.push(this.createComputePipelineAsync(descriptor));
    return {} as GPUComputePipeline;
  };
  try {
    make();
  } finally {
    prototype.createComputePipeline = createComputePipeline;
  }
  // What is wrong with one is told where it is asked for again.
  await Promise.allSettled(coming);
}
