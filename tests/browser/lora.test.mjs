// LoRA adapters through the package in Chromium, on the CPU and on WebGPU (lavapipe), from both kinds of files: held to the
// same references as natively (tests/lora.rs), and gone without a trace when they are removed.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { around, assertNoProblems, load } from './harness.mjs';

/** As in tests/lora.rs. */
const TOLERANCE = { cpu: 0.15, webgpu: 2e-3 };
/** How far two runs of the same graph may be: steps are cut by time, and steps of other lengths round otherwise. Adapters move
 * logits by up to 12. */
const ALIKE = 1e-4;

/** Helpers of the page: `lora.check(case)` compares with the reference, `lora.logits()` gives what the engine computes. */
async function prepare() {
  const file = await (await fetch('/golden/lora/reference.safetensors')).arrayBuffer();
  const headerBytes = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, headerBytes)));
  const tensor = (name, Type) => {
    const [start, end] = header[name].data_offsets;
    return new Type(file.slice(8 + headerBytes + start, 8 + headerBytes + end));
  };
  const ids = tensor('input_ids', Uint32Array);
  const logits = async () => (await globalThis.engine.forward(ids, { all: true })).logits;
  const folder = (name) => ({
    config: `/golden/lora/${name}/adapter_config.json`, tensors: `/golden/lora/${name}/adapter_model.safetensors`,
  });
  globalThis.lora = {
    ids,
    logits,
    folder,
    /** Largest difference to the logits of the case. */
    async check(name) {
      const expected = tensor(`${name}.logits`, Float32Array);
      const found = await logits();
      if (found.length !== expected.length) return Infinity;
      return found.reduce((worst, value, i) => Math.max(worst, Number.isFinite(value) ? Math.abs(value - expected[i]) : Infinity), 0);
    },
    greedy: (name) => Array.from(tensor(`${name}.greedy_ids`, Uint32Array)),
  };
}

for (const [backend, gpu, threads] of [['cpu', 'none', 1], ['cpu', 'none', 2], ['webgpu', 'lavapipe', 1]]) {
  describe(`LoRA adapters on ${backend}${threads > 1 ? `, ${threads} workers` : ''}`, () => {
    let page;
    around({ gpu }, async (started) => {
      ({ page } = started);
      await page.evaluate(prepare);
    });

    for (const model of ['/golden/llama31/model.gguf', '/golden/hf/llama31/']) {
      test(`two adapters on ${model}`, async (t) => {
        const { info } = await load(page, { model, backend, threads, gpuPrecision: 'f32', contextLength: 128, cache: false });
        assert.deepEqual([info.backend, info.threads], [backend, threads]);
        const found = await page.evaluate(async (alike) => {
          const { engine, lora } = globalThis;
          const same = (a, b) => a.length === b.length && a.every((value, i) => Math.abs(value - b[i]) <= alike);
          const before = await lora.logits();
          const one = await engine.loadAdapter(lora.folder('one'));
          const worstOne = await lora.check('one');
          const two = await engine.loadAdapter(lora.folder('two'), { scale: -1.5 });
          await engine.setAdapters([{ id: one, scale: 0.5 }, { id: two, scale: -1.5 }]);
          const worstBoth = await lora.check('both');
          await engine.setAdapters([]);
          const unused = same(await lora.logits(), before);
          const table = await engine.loadAdapter(lora.folder('table'));
          const worstTable = await lora.check('table');
          await engine.removeAdapter(table);
          await engine.removeAdapter(one);
          const gguf = await engine.loadAdapter(await (await fetch('/golden/lora/one.gguf')).blob());
          await engine.removeAdapter(two);
          const worstGguf = await lora.check('one');
          const greedy = [];
          // The reference's own continuation, a token at a time from the cache.
          for (const expected of lora.greedy('one')) {
            const { logits } = await engine.forward([...lora.ids, ...greedy]);
            greedy.push(logits.reduce((best, value, i) => (value > logits[best] ? i : best), 0));
            if (greedy.at(-1) !== expected) break;
          }
          const wrong = await engine.loadAdapter('/golden/llama31/model.gguf').then(() => 'loaded', ({ code, field }) => [code, field]);
          const stillOne = await lora.check('one');
          await engine.removeAdapter(gguf);
          const gone = same(await lora.logits(), before);
          const twice = await engine.removeAdapter(gguf).then(() => 'removed', ({ code }) => code);
          const changed = !same(before, new Float32Array(before.length));
          return {
            worst: { worstOne, worstBoth, worstTable, worstGguf, stillOne }, unused, gone, changed, wrong, twice,
            greedy, expected: lora.greedy('one'),
          };
        }, ALIKE);
        t.diagnostic(`largest differences ${JSON.stringify(found.worst)} (allowed ${TOLERANCE[backend]})`);
        for (const [name, worst] of Object.entries(found.worst)) assert.ok(worst <= TOLERANCE[backend], `${name}: ${worst}`);
        assert.ok(found.unused, 'unused adapters change the logits');
        assert.ok(found.gone && found.changed, 'the model is not what it was');
        assert.deepEqual(found.wrong, ['not-a-model', 'general.type']);
        assert.equal(found.twice, 'invalid-request');
        if (backend === 'webgpu') assert.deepEqual(found.greedy, found.expected);
        assertNoProblems(page);
      });
    }

    test('what is generated follows the adapter', async () => {
      const said = await page.evaluate(async () => {
        const { engine, lora } = globalThis;
        const says = async () => (await engine.completions.create({ prompt: 'A lamp', temperature: 0, max_tokens: 12 })).choices[0].text;
        const before = await says();
        const id = await engine.loadAdapter(lora.folder('one'), { scale: 1 });
        const changed = await says();
        await engine.removeAdapter(id);
        return { before, changed, after: await says() };
      });
      assert.notEqual(said.changed, said.before);
      assert.equal(said.after, said.before);
      assertNoProblems(page);
    });
  });
}
