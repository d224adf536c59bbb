// The clock of GPU kernels against classes that stand for WebGPU's: what browsers differ in.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { askForFeatures } from '../dist/gpu-features.js';
import { endProfile, startProfile, watchKernels } from '../dist/kernel-clock.js';

/** Classes whose devices have `features` and whose clock says `ticks`, one after the other; what is made and not destroyed is in `alive`. */
function classes(ticks) {
  const alive = new Set();
  const made = (methods) => {
    const it = { ...methods, destroy: () => alive.delete(it) };
    alive.add(it);
    return it;
  };
  class GPUDevice {
    constructor(features) { this.features = new Set(features); }
    createBindGroup() { return {}; }
    createCommandEncoder() { return new GPUCommandEncoder(); }
    createQuerySet() { return made({}); }
    createBuffer({ size }) {
      return made({ mapAsync: async () => {}, getMappedRange: () => BigUint64Array.from(ticks.splice(0, size / 8)).buffer });
    }
    pushErrorScope() {}
    async popErrorScope() { return {}; }
  }
  class GPUCommandEncoder {
    passes = [];
    beginComputePass(descriptor) {
      const pass = { descriptor, setPipeline() {}, setBindGroup() {}, dispatchWorkgroups() {}, end() {} };
      this.passes.push(pass);
      return pass;
    }
    resolveQuerySet() {}
    copyBufferToBuffer() {}
    finish() { return {}; }
  }
  class GPUAdapter {
    constructor(features) { this.features = new Set(features); }
    async requestDevice(descriptor) { return new GPUDevice(descriptor?.requiredFeatures ?? []); }
  }
  class GPUQueue {
    submit() {}
  }
  return { GPUAdapter, GPUDevice, GPUCommandEncoder, GPUQueue, alive };
}

/** Records two dispatches of one pass on a device of an adapter, and submits them. */
async function run({ GPUAdapter, GPUQueue }, features, label) {
  const device = await new GPUAdapter(features).requestDevice({ requiredFeatures: ['shader-f16'] });
  // A part of a buffer, or all of one.
  const resource = label === undefined ? { size: 1000, buffer: { size: 5000 } } : { buffer: { size: 1000 } };
  const group = device.createBindGroup({ label, entries: [{ binding: 2, resource }] });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const label of ['matmul/mat_vec q4_0 F16=1', 'norm/norm F16=1']) {
    pass.setPipeline({ label });
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(1, 2, 1);
  }
  pass.end();
  new GPUQueue().submit([encoder.finish()]);
  return { device, encoder };
}

test('each dispatch is a pass with time stamps while a request is profiled, and only then', async () => {
  const gpu = classes([0n, 2_500_000n, 3_000_000n, 3_000_123n]);
  askForFeatures(gpu.GPUAdapter, ['timestamp-query']);
  watchKernels(gpu);
  const before = await run(gpu, ['timestamp-query']);
  assert.deepEqual([...before.device.features], ['shader-f16', 'timestamp-query']);
  assert.equal(before.encoder.passes.length, 1);
  assert.equal(before.encoder.passes[0].descriptor, undefined);
  startProfile();
  const { encoder } = await run(gpu, ['timestamp-query']);
  const profile = await endProfile();
  assert.deepEqual(encoder.passes.map(({ descriptor: { timestampWrites: writes } }) => [writes.beginningOfPassWriteIndex, writes.endOfPassWriteIndex]), [[0, 1], [2, 3]]);
  assert.deepEqual(profile, {
    kernels: [{ name: 'matmul/mat_vec q4_0 F16=1', calls: 1, ms: 2.5, bytes: 1000 }, { name: 'norm/norm F16=1', calls: 1, ms: 0.000123, bytes: 0 }],
  });
  assert.equal(gpu.alive.size, 0);
});

test('of experts and tables the chosen rows count', async () => {
  for (const [shares, bytes] of [['8', 250], ['2', 1000], ['1', 1000], ['', 1000]]) {
    const gpu = classes([0n, 1n, 1n, 2n]);
    askForFeatures(gpu.GPUAdapter, ['timestamp-query']);
    watchKernels(gpu);
    startProfile();
    await run(gpu, ['timestamp-query'], shares);
    const { kernels } = await endProfile();
    assert.deepEqual(kernels.map((kernel) => kernel.bytes), [bytes, 0], shares);
  }
});

test('a clock that the browser rounds is named', async () => {
  const gpu = classes([0n, 300_000n, 300_000n, 300_000n]);
  askForFeatures(gpu.GPUAdapter, ['timestamp-query']);
  watchKernels(gpu);
  startProfile();
  await run(gpu, ['timestamp-query']);
  const { kernels, roundedTo } = await endProfile();
  assert.equal(roundedTo, 0.1);
  assert.deepEqual(kernels.map(({ ms }) => ms), [0.3, 0]);
});

test('without time stamps the profile says why it is empty, and the passes are the core\'s own', async () => {
  const gpu = classes([]);
  askForFeatures(gpu.GPUAdapter, ['timestamp-query']);
  watchKernels(gpu);
  startProfile();
  const { device, encoder } = await run(gpu, []);
  assert.deepEqual([...device.features], ['shader-f16']);
  assert.equal(encoder.passes.length, 1);
  const { kernels, missing } = await endProfile();
  assert.deepEqual(kernels, []);
  assert.match(missing, /timestamp-query/);
});

test('where there is no WebGPU nothing is watched, and the CPU tells its own times', async () => {
  watchKernels({});
  startProfile();
  const { kernels, bytesPerSecond } = await endProfile([
    { name: 'attn_q', calls: 2, seconds: 0.001, bytes: 1000 }, { name: 'ffn_up', calls: 2, seconds: 0.004, bytes: 0 },
  ]);
  assert.deepEqual(kernels.map(({ name, ms }) => [name, ms]), [['ffn_up', 4], ['attn_q', 1]]);
  assert.equal(kernels[0].share, undefined);
  assert.equal(kernels[1].share, 1e6 / bytesPerSecond);
});
