// What is asked of a GPU adapter.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { askForSubgroups } from '../dist/subgroups.js';

/** A class like `GPUAdapter` whose devices are what was asked for. */
function adapterWith(...names) {
  return class {
    features = new Set(names);
    requestDevice(descriptor) { return Promise.resolve(descriptor); }
  };
}

test('subgroups are asked for besides what the caller wants, where the adapter has them', async () => {
  const Adapter = adapterWith('subgroups', 'shader-f16');
  askForSubgroups(Adapter);
  const limits = { maxBufferSize: 5 };
  const asked = await new Adapter().requestDevice({ requiredFeatures: ['shader-f16'], requiredLimits: limits });
  assert.deepEqual(asked, { requiredFeatures: ['shader-f16', 'subgroups'], requiredLimits: limits });
  assert.deepEqual(await new Adapter().requestDevice(), { requiredFeatures: ['subgroups'] });
});

test('other adapters are asked for what the caller wants, and a browser without WebGPU for nothing', async () => {
  const Adapter = adapterWith('shader-f16');
  askForSubgroups(Adapter);
  assert.equal(await new Adapter().requestDevice(), undefined);
  assert.deepEqual(await new Adapter().requestDevice({ requiredFeatures: [] }), { requiredFeatures: [] });
  askForSubgroups(undefined);
});
