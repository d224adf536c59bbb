// What is asked of a GPU adapter.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { askForFeatures } from '../dist/gpu-features.js';

/** A class like `GPUAdapter` whose devices are what was asked for. */
function adapterWith(...names) {
  return class {
    features = new Set(names);
    requestDevice(descriptor) { return Promise.resolve(descriptor); }
  };
}

test('features are asked for besides what the caller wants, where the adapter has them', async () => {
  const Adapter = adapterWith('subgroups', 'shader-f16');
  askForFeatures(Adapter, ['subgroups', 'timestamp-query']);
  const limits = { maxBufferSize: 5 };
  const asked = await new Adapter().requestDevice({ requiredFeatures: ['shader-f16'], requiredLimits: limits });
  assert.deepEqual(asked, { requiredFeatures: ['shader-f16', 'subgroups'], requiredLimits: limits });
  assert.deepEqual(await new Adapter().requestDevice(), { requiredFeatures: ['subgroups'] });
  const Both = adapterWith('timestamp-query', 'subgroups');
  askForFeatures(Both, ['subgroups', 'timestamp-query']);
  assert.deepEqual(await new Both().requestDevice(), { requiredFeatures: ['subgroups', 'timestamp-query'] });
});

test('other adapters are asked for what the caller wants, and a browser without WebGPU for nothing', async () => {
  const Adapter = adapterWith('shader-f16');
  askForFeatures(Adapter, ['subgroups', 'timestamp-query']);
  assert.equal(await new Adapter().requestDevice(), undefined);
  assert.deepEqual(await new Adapter().requestDevice({ requiredFeatures: [] }), { requiredFeatures: [] });
  askForFeatures(undefined, ['subgroups']);
});
