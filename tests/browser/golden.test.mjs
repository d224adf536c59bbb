// The golden sets through the published package in Chromium: every family and format that users load, on the CPU and on
// WebGPU (lavapipe), held to the logits of independent implementations. On several workers, and on WebGPU, where every set
// compiles its kernels, `make test` takes a sample, whose seed it prints (LAMPLIGHT_SEED repeats it); `make test-all` takes all sets.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { ISOLATION, ROOT, around, assertNoProblems, load } from './harness.mjs';

const GOLDEN = path.join(ROOT, 'tests/golden');
/** Sets in a sample. */
const SAMPLE = 12;
const SEED = Number(process.env.LAMPLIGHT_SEED ?? Date.now() % 1_000_000);

/** Folders below `dir` that hold a golden.json, as paths relative to the golden folder. */
function sets(dir = GOLDEN) {
  return fs.readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory()).flatMap((entry) => {
    const below = path.join(dir, entry.name);
    return fs.existsSync(path.join(below, 'golden.json')) ? [path.relative(GOLDEN, below)] : sets(below);
  }).sort();
}

/** `count` of `all` in their order, chosen by the seed (mulberry32). */
function sample(all, count, seed) {
  let state = seed >>> 0;
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const ranked = all.map((name) => ({ name, rank: random() })).sort((a, b) => a.rank - b.rank);
  return ranked.slice(0, count).map(({ name }) => name).sort();
}

/**
 * Runs in the page: largest difference to the reference over the prompts that have logits and the texts that have vectors,
 * and the shares of rows with the same best token and within what is allowed.
 */
async function compare({ reference, prompts, texts, allowed }) {
  const file = await (await fetch(reference)).arrayBuffer();
  const headerBytes = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, headerBytes)));
  const tensor = (name, Type) => {
    const [start, end] = header[name].data_offsets;
    return new Type(file.slice(8 + headerBytes + start, 8 + headerBytes + end));
  };
  const best = (row) => row.reduce((found, value, index) => (value > row[found] ? index : found), 0);
  let worst = 0;
  let rows = 0;
  let equal = 0;
  let within = 0;
  const shares = [];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  /** Root mean square of the difference, as a share of the reference's deviation, both from their means. */
  const share = (found, expected) => {
    const centre = mean(expected);
    const shift = mean(found) - centre;
    const gaps = expected.map((value, i) => (found[i] - value - shift) ** 2);
    return Math.sqrt(mean(gaps) / mean(expected.map((value) => (value - centre) ** 2)));
  };
  const note = (found, expected) => {
    let gap = 0;
    for (let i = 0; i < expected.length; i++) {
      const difference = Math.abs(found[i] - expected[i]);
      gap = Number.isNaN(difference) ? Infinity : Math.max(gap, difference);
    }
    worst = Math.max(worst, gap);
    return gap <= allowed;
  };
  for (const [index, text] of (texts ?? []).entries()) {
    const { data } = await globalThis.engine.embeddings.create({ input: text });
    note(data[0].embedding, tensor(`prompt${index}.embedding`, Float32Array));
  }
  for (const index of prompts) {
    const ids = tensor(`prompt${index}.input_ids`, Uint32Array);
    const expected = tensor(`prompt${index}.logits`, Float32Array);
    const { logits } = await globalThis.engine.forward(ids, { all: true });
    if (logits.length !== expected.length) return { worst: Infinity, top1: 0, within: 0, rows: 0 };
    const width = expected.length / ids.length;
    for (let row = 0; row < ids.length; row++) {
      const range = [row * width, (row + 1) * width];
      equal += best(logits.subarray(...range)) === best(expected.subarray(...range)) ? 1 : 0;
      within += note(logits.subarray(...range), expected.subarray(...range)) ? 1 : 0;
      shares.push(share(logits.subarray(...range), expected.subarray(...range)));
      rows++;
    }
  }
  const median = shares.sort((a, b) => a - b)[shares.length >> 1];
  const deviation = { all: Math.sqrt(mean(shares.map((share) => share ** 2))), median };
  return { worst, top1: rows ? equal / rows : 1, within: rows ? within / rows : 1, rows, deviation };
}

const facts = (name) => JSON.parse(fs.readFileSync(path.join(GOLDEN, name, 'golden.json'), 'utf8'));

const all = sets();
const some = process.env.LAMPLIGHT_LONG ? all : sample(all, SAMPLE, SEED);

for (const [backend, gpu, options, chosen, headers] of [
  ['cpu', 'none', { backend: 'cpu', threads: 1 }, all, {}],
  ['cpu', 'none', { backend: 'cpu', threads: 2 }, some, ISOLATION],
  ['cpu', 'none', { backend: 'cpu', threads: 2 }, some, {}],
  // Uneven shares of nearly everything.
  ['cpu', 'none', { backend: 'cpu', threads: 3 }, some, ISOLATION],
  ['cpu', 'none', { backend: 'cpu', threads: 2, kvCache: 'q8_0' }, some.filter((name) => facts(name).causal !== false), ISOLATION],
  ['webgpu', 'lavapipe', { backend: 'webgpu', gpuPrecision: 'f32' }, some, {}],
]) {
  const exchange = options.threads > 1 ? (headers === ISOLATION ? 'shared' : 'messages') : undefined;
  const where = exchange ? `${options.threads} workers, parts through ${exchange}` : backend;
  describe(`golden sets on ${where}${options.kvCache ? `, ${options.kvCache} cache` : ''}, ${chosen.length} of ${all.length}, seed ${SEED}`, () => {
    let page;
    around({ gpu, headers }, (started) => { ({ page } = started); });

    for (const name of chosen) {
      test(name, async (t) => {
        const golden = facts(name);
        const prompts = golden.prompts.filter((prompt) => prompt.has_logits).map((prompt) => prompt.index);
        assert.ok(prompts.length > 0 || golden.texts?.length > 0);
        const { info } = await load(page, { ...options, model: `/golden/${name}/${golden.file ?? ''}`, contextLength: 128, cache: false });
        assert.deepEqual([info.backend, info.threads, info.exchange], [backend, options.threads ?? 1, exchange]);
        // The CPU rounds activations to 16 bits; WebGPU computes in float32 here.
        const half = backend === 'cpu';
        const allowed = half ? golden.tolerance_f16 : golden.tolerance_f32;
        const { worst, top1, within, rows, deviation } = await page.evaluate(compare, {
          reference: `/golden/${name}/${golden.reference}`, prompts, texts: golden.texts, allowed,
        });
        t.diagnostic(`${rows} rows: largest difference ${worst.toExponential(2)} (allowed ${allowed}), best token equal ${top1.toFixed(3)}`);
        // Rounding may send a token to another expert, and all that follows with it.
        const least = half ? (golden.share_min_f16 ?? 1) : 1;
        assertNoProblems(page);
        // A smaller cache loses more, by tests/golden.rs's bound.
        if (options.kvCache) return assert.ok((least < 1 ? deviation.median : deviation.all) <= 0.04, JSON.stringify(deviation));
        assert.ok(worst <= allowed || (least < 1 && within >= least), `${worst} > ${allowed}, within in ${within} of the rows`);
        assert.ok(top1 >= (half ? golden.top1_min_f16 : 1), `${top1}`);
      });
    }
  });
}
