// Pipelines compiled ahead, against classes that stand for WebGPU's.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pipelinesAhead } from '../dist/pipelines-ahead.js';

/** A device that notes what is asked of it, and whose second pipeline does not compile. */
function device() {
  const asked = [];
  class GPUDevice {
    createComputePipeline({ label }) { asked.push(label); return { label }; }
    async createComputePipelineAsync({ label }) {
      asked.push(`begin ${label}`);
      await new Promise(setImmediate);
      asked.push(`end ${label}`);
      if (label === 'b') throw new Error('does not compile');
    }
  }
  return { GPUDevice, asked, device: new GPUDevice() };
}
const makeAll = (on) => () => ['a', 'b', 'c'].forEach((label) => on.createComputePipeline({ label }));

test('Chromium compiles all at once, and then they are made as ever', async () => {
  const { GPUDevice, asked, device: on } = device();
  await pipelinesAhead(makeAll(on), { navigator: { userAgentData: {} }, GPUDevice });
  assert.deepEqual(asked, ['begin a', 'begin b', 'begin c', 'end a', 'end b', 'end c']);
  assert.deepEqual(on.createComputePipeline({ label: 'a' }), { label: 'a' });
});

test('what throws meanwhile leaves the device as it was', async () => {
  const { GPUDevice, device: on } = device();
  const fails = () => { throw new Error('no'); };
  await assert.rejects(pipelinesAhead(fails, { navigator: { userAgentData: {} }, GPUDevice }), { message: 'no' });
  assert.deepEqual(on.createComputePipeline({ label: 'a' }), { label: 'a' });
});

test('other browsers, which would compile them twice, are left alone', async () => {
  const { GPUDevice, asked, device: on } = device();
  await pipelinesAhead(makeAll(on), { navigator: {}, GPUDevice });
  assert.deepEqual(asked, []);
});
