// The verdict on whether a model fits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { judge } from '../dist/fit.js';

const GIB = 2 ** 30;
const facts = (weights, kv, more = {}) => ({
  backend: 'webgpu', backendReason: '', contextLength: 4096, missingBytes: weights, model: { formats: { q4_k: weights } }, smallerCaches: [],
  needs: { weightBytes: weights, kvBytes: kv, workspaceBytes: 0 }, ...more,
});

test('what is known to be too little is said to be, with what would help', () => {
  assert.equal(judge(facts(GIB, 0), { deviceMemoryGiB: 4 }).verdict, 'fits');
  const tight = judge(facts(1.6 * GIB, 0.6 * GIB), { deviceMemoryGiB: 4 });
  assert.equal(tight.verdict, 'tight');
  assert.match(tight.suggestions[0], /^set contextLength to 1536$|^set contextLength to 2048$/);
  const several = judge(facts(1.6 * GIB, 0.6 * GIB), { deviceMemoryGiB: 4, sequences: 3 });
  assert.equal(several.suggestions[0], 'lower sequences: each takes 205 MiB with a full context');
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

test('a smaller cache is offered where it makes the model fit, the finer one first', () => {
  const caches = (kv) => ({ smallerCaches: [['q8_0', kv * 9 / 16], ['q4_0', kv * 5 / 16]] });
  const ask = (kv) => judge(facts(GIB, kv, { limitBytes: 2 * GIB, ...caches(kv) }), {});
  assert.equal(ask(GIB / 2).verdict, 'fits');
  const [first, second] = ask(GIB).suggestions;
  assert.equal(first, "set kvCache to 'q8_0': the context then takes 576 MiB instead of 1024 MiB");
  assert.match(second, /^set contextLength to /);
  assert.match(ask(1.5 * GIB).suggestions[0], /^set kvCache to 'q4_0': .* 480 MiB instead of 1536 MiB$/);
  assert.match(ask(3 * GIB).suggestions[0], /^set kvCache to 'q4_0'/);
  assert.doesNotMatch(ask(8 * GIB).suggestions.join(), /kvCache/, 'no cache would do');
  const fine = judge(facts(GIB, GIB, { limitBytes: 2 * GIB, smallerCaches: [['q8_0', GIB], ['q4_0', GIB]] }), {});
  assert.doesNotMatch(fine.suggestions.join(), /kvCache/, 'the cache is small already');
});
