// The verdict on whether a model fits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { judge } from '../dist/fit.js';

const GIB = 2 ** 30;
const facts = (weights, kv, more = {}) => ({
  backend: 'webgpu', backendReason: '', contextLength: 4096, missingBytes: weights, model: { formats: { q4_k: weights } },
  needs: { weightBytes: weights, kvBytes: kv, workspaceBytes: 0 }, ...more,
});

test('what is known to be too little is said to be, with what would help', () => {
  assert.equal(judge(facts(GIB, 0), { deviceMemoryGiB: 4 }).verdict, 'fits');
  const tight = judge(facts(1.6 * GIB, 0.6 * GIB), { deviceMemoryGiB: 4 });
  assert.equal(tight.verdict, 'tight');
  assert.match(tight.suggestions[0], /^set contextLength to 1536$|^set contextLength to 2048$/);
  const no = judge(facts(3 * GIB, 0, { backend: 'cpu', limitBytes: 2 * GIB, model: { formats: { f16: 3 * GIB } } }), {});
  assert.equal(no.verdict, 'no');
  assert.equal(no.memoryBytes, 2 * GIB);
  assert.match(no.suggestions.join(), /quantize.*WebGPU/);
});

test('a large device sets no bound, and a full store makes it tight', () => {
  assert.equal(judge(facts(20 * GIB, 0), { deviceMemoryGiB: 8 }).verdict, 'fits');
  const full = judge(facts(GIB, 0), { deviceMemoryGiB: 8, storageRoomBytes: GIB / 2 });
  assert.equal(full.verdict, 'tight');
  assert.match(full.suggestions[0], /evict/);
});
