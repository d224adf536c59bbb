// The real model on WebGPU in Chromium, on the lavapipe adapter (a software GPU with shader-f16 and subgroups), held against an
// independent float32 reference; and a device that is not there.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { MODEL_PATH, ROOT, around, assertNoProblems, load, loadError, start } from './harness.mjs';

const GOLDEN = JSON.parse(fs.readFileSync(path.join(ROOT, 'tests/golden/real/smollm2-135m-instruct-q4_1.json'), 'utf8'));
const WASM_LIMIT = 96 * 1024 * 1024;
/** A float32 path must give the reference's ids up to the first step that the reference decided by less than this. */
const CERTAIN = 0.01;
/** Tokens compared per prompt: a software GPU makes few a second. */
const MOST_TOKENS = process.env.LAMPLIGHT_LONG ? 64 : 16;

/** How many of the reference's greedy ids are certain. */
function certain(reference) {
  const doubtful = reference.margin.findIndex((margin) => margin < CERTAIN);
  return Math.min(doubtful < 0 ? reference.ids.length : doubtful, MOST_TOKENS);
}

/** The largest difference between a logits row and the reference's twenty best. */
async function logitsError(page, golden) {
  const ids = golden.exact_f32.top20.map(([id]) => id);
  const got = await page.evaluate(async ({ prompt, wanted }) => {
    const { logits } = await engine.forward(prompt);
    return { best: logits.indexOf(Math.max(...logits)), values: wanted.map((id) => logits[id]), finite: logits.every(Number.isFinite) };
  }, { prompt: golden.prompt_ids, wanted: ids });
  const error = Math.max(...golden.exact_f32.top20.map(([, value], i) => Math.abs(value - got.values[i])));
  return { ...got, error };
}

describe('WebGPU on lavapipe', () => {
  let server, page;
  around({ gpu: 'lavapipe' }, (started) => { ({ server, page } = started); });

  test('the adapter is the one with f16 and subgroups', async () => {
    const { webgpu, adapter } = await page.evaluate(() => lamplight.capabilities());
    assert.equal(webgpu, true);
    assert.equal(adapter.f16, true);
    assert.equal(adapter.subgroups, true);
  });

  test('auto takes WebGPU, and wasm memory stays small', async (t) => {
    const { info, seconds } = await load(page, { model: MODEL_PATH, gpuPrecision: 'f32', tune: true });
    t.diagnostic(`cold load: ${seconds.toFixed(2)} s, wasm memory ${(info.memory.wasmBytes / 2 ** 20).toFixed(1)} MiB`);
    assert.equal(info.backend, 'webgpu', info.backendReason);
    assert.ok(info.backendReason.length > 10);
    assert.ok(info.adapter);
    assert.ok(info.memory.wasmBytes < WASM_LIMIT, `${info.memory.wasmBytes} bytes`);
    assert.ok(info.memory.backendBytes > 90e6);
    const { kernels, milliseconds, replaced, tuned } = info.gpu;
    t.diagnostic(`${kernels} kernels checked in ${milliseconds} ms; ${tuned}`);
    assert.ok(kernels > 15);
    assert.equal(replaced, undefined);
    assert.match(tuned, /^\d+: mat-vec .*; measured in \d+ ms(; mat-(vec|mul) .* \d+\.\d us){2,}$/);
  });

  test('kernels with subgroups compile and compute what the others do', async (t) => {
    // What was measured is kept; here it says that subgroups are the fastest.
    const kept = await page.evaluate(() => new Promise((resolve, reject) => {
      const opening = indexedDB.open('lamplight-facts', 1);
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const store = opening.result.transaction('facts', 'readwrite').objectStore('facts');
        store.openCursor().onsuccess = ({ target: { result: cursor } }) => {
          cursor.update('1: of the test').onsuccess = () => {
            opening.result.close();
            resolve(cursor.key);
          };
        };
      };
    }));
    assert.match(kept, /Q4_1 F32 .* true$/);
    const { info } = await load(page, { model: MODEL_PATH, gpuPrecision: 'f32', tune: true });
    t.diagnostic(JSON.stringify(info.gpu));
    assert.equal(info.gpu.tuned, '1: of the test');
    assert.equal(info.gpu.replaced, undefined);
    assert.equal(info.gpu.subgroups, true);
  });

  test('logits are those of the float32 reference', async (t) => {
    for (const golden of GOLDEN.cases.slice(0, 3)) {
      const { best, error, finite } = await logitsError(page, golden);
      t.diagnostic(`${JSON.stringify(golden.prompt.slice(0, 30))}: largest difference of the twenty best ${error.toExponential(2)}`);
      assert.equal(finite, true);
      assert.equal(best, golden.exact_f32.ids[0]);
      assert.ok(error < 0.02, `${error}`);
    }
  });

  for (const index of [0, 2, 4]) {
    const golden = GOLDEN.cases[index];
    test(`greedy ids are the reference's: ${golden.kind} ${JSON.stringify(golden.prompt.slice(0, 40))}`, async (t) => {
      const count = certain(golden.exact_f32);
      const expected = golden.exact_f32.ids.slice(0, count);
      const { text, wanted, usage } = await page.evaluate(async ({ prompt, ids }) => {
        const done = await engine.completions.create({ prompt, temperature: 0, max_tokens: ids.length });
        return { text: done.choices[0].text, usage: done.usage, wanted: await engine.detokenize(ids, { skipSpecial: true }) };
      }, { prompt: golden.prompt_ids, ids: expected });
      t.diagnostic(`${count} ids; prefill ${usage.timings.prefill_tok_s.toFixed(1)} tok/s, decode ${usage.timings.decode_tok_s.toFixed(1)} tok/s`);
      assert.ok(count >= 5);
      // Bytes of a character that is not whole yet show as U+FFFD in the one and not at all in the other.
      assert.equal(text.replace(/\uFFFD+$/, ''), wanted.replace(/\uFFFD+$/, ''));
    });
  }

  test('log-probabilities are those of the logits, and only the best are read back', async () => {
    const { found, expected, work, nVocab } = await page.evaluate(async () => {
      const prompt = 'The capital of France is';
      const request = { prompt, temperature: 0, max_tokens: 4, logprobs: 5, logit_bias: { 0: -100 } };
      const { choices: [{ logprobs: found }], usage: { work } } = await engine.completions.create(request);
      const expected = [];
      for (let i = 0; i < found.tokens.length; i++) {
        const ids = await engine.tokenize(prompt + found.tokens.slice(0, i).join(''));
        const { logits } = await engine.forward(ids);
        const largest = Math.max(...logits);
        const logSum = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
        expected.push([...logits].sort((a, b) => b - a).slice(0, 5).map((logit) => logit - logSum));
      }
      return { found, expected, work, nVocab: engine.info.model.nVocab };
    });
    assert.equal(found.tokens.length, 4);
    found.top_logprobs.forEach((top, i) => Object.values(top).forEach((logprob, j) =>
      assert.ok(Math.abs(logprob - expected[i][j]) < 1e-3, `token ${i}, ${j}: ${logprob} is not ${expected[i][j]}`)));
    // The prompt's logits, then 176 bytes a step, of which some may be run ahead.
    assert.ok(work.readback_bytes < 4 * nVocab + 32 * 176, `${work.readback_bytes} bytes`);
  });

  test('a profile has every dispatch of a request, by the GPU\'s own clock, and changes no text', async () => {
    const [plain, timed, after] = await page.evaluate(async () => {
      const results = [];
      for (const profile of [false, true, false]) {
        results.push(await engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 6, profile }));
      }
      return results;
    });
    assert.equal(plain.usage.profile, undefined);
    assert.equal(timed.choices[0].text, plain.choices[0].text);
    const { kernels, bytesPerSecond, missing } = timed.usage.profile;
    assert.equal(missing, undefined);
    assert.equal(kernels.reduce((sum, { calls }) => sum + calls, 0), timed.usage.work.dispatches);
    assert.ok(bytesPerSecond > 1e6, `${bytesPerSecond}`);
    const head = kernels.find(({ name }) => /mat_vec q8_0/.test(name));
    // Its table of 49,152 rows of 576, in blocks of 34 bytes, padded to whole words.
    assert.ok(head.bytes >= head.calls * 49152 * 576 / 32 * 34, JSON.stringify(head));
    assert.ok(head.ms > 0 && head.share > 0, JSON.stringify(head));
    assert.equal(after.usage.profile, undefined);
    assert.equal(after.choices[0].text, plain.choices[0].text);
  });

  test('an abort stops a chat on the GPU', async (t) => {
    const { outcome, ms, next } = await page.evaluate(async () => {
      const controller = new AbortController();
      let result;
      let asked = 0;
      try {
        const stream = await engine.chat.completions.create({
          messages: [{ role: 'user', content: 'Count to one hundred.' }], temperature: 0, max_tokens: 200, stream: true, signal: controller.signal,
        });
        for await (const chunk of stream) {
          result = chunk.choices[0].finish_reason;
          if (chunk.choices[0].delta.content && !asked) { asked = performance.now(); controller.abort(); }
        }
      } catch (error) {
        result = error.code;
      }
      const stopped = performance.now() - asked;
      const after = await engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 1 });
      return { outcome: result, ms: stopped, next: after.choices[0].text };
    });
    t.diagnostic(`stopped ${ms.toFixed(0)} ms after the abort`);
    assert.match(outcome, /^abort(ed)?$/);
    assert.equal(next, ' Paris');
  });

  test('f16 from the cache: no request for weights, the same first tokens, logits within f16', async (t) => {
    server.clearLog();
    const { info, seconds } = await load(page, { model: MODEL_PATH, backend: 'webgpu', gpuPrecision: 'f16' });
    t.diagnostic(`load from the cache: ${seconds.toFixed(2)} s`);
    assert.equal(info.load.fromCache, true);
    assert.equal(info.gpu.tuned, undefined, 'software is not measured unless asked for');
    assert.deepEqual(server.requests(MODEL_PATH), []);
    assert.ok(info.memory.wasmBytes < WASM_LIMIT, `${info.memory.wasmBytes} bytes`);
    const { best, error } = await logitsError(page, GOLDEN.cases[0]);
    t.diagnostic(`largest difference of the twenty best ${error.toExponential(2)}`);
    assert.equal(best, GOLDEN.cases[0].exact_f32.ids[0]);
    assert.ok(error < 0.22, `${error}`);
    assertNoProblems(page);
  });

  test('WebGPU that was asked for and is not there is an error with its reason', async () => {
    const { page: plain, close } = await start({ server });
    try {
      const error = await loadError(plain, { model: MODEL_PATH, backend: 'webgpu' });
      assert.equal(error.code, 'gpu-unavailable', error.message);
      const listed = await plain.evaluate(() => lamplight.models.list());
      assert.deepEqual(listed, [], 'a model was downloaded that could not be used');
    } finally {
      await close();
    }
  });
});
