//! Attention over the KV cache.
//!
//! Principal type: [`Scratch`]. Queries that share a head's keys and values (the heads of a group, and the tokens of a
//! chunk) go through them up to four at a time, and once: a block of keys at a time, with a running maximum of the scores
//! (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"). Floats are multiplied as floats;
//! quantised keys and values by integer dots, with queries and weights rounded to 16 bits. Must not know graphs or
//! weights.

use super::activations::{ActBlock, BLOCK, round_block};
use super::cache::{Cache, Float, ROWS, Rows, STEP};
use super::codes::{Codes, PANEL, dots};
use super::elementwise::{exp, tanh};
use crate::backend::cpu::Attention;
use crate::backend::cpu::plan::zeroed;
use crate::backend::cpu::simd::{F32x4, unrolled};
use crate::error::Result;
use crate::model::graph::KvDecl;

/// Keys of a block: their scores stay in the nearest cache, and the sums are seldom taken down to a new maximum.
const KEYS: usize = 256;

/// Below every score; a finite number, so that a block of hidden keys does no harm.
const LOWEST: f32 = -1e30;

/// What a pass works with; shared by all layers.
pub(super) struct Scratch {
    /// `[KEYS, ROWS]` scores, then weights.
    scores: Vec<[f32; ROWS]>,
    /// `[width, ROWS]` queries.
    q: Vec<[f32; ROWS]>,
    /// `[width / STEP, ROWS]` sums.
    sums: Vec<[[f32; STEP]; ROWS]>,
    /// `[width / BLOCK]` rounded queries, and a block of rounded weights behind them: of one query, and of several.
    acts: (Vec<ActBlock<1>>, Vec<ActBlock<ROWS>>),
}

/// The queries of one pass: `R` of those that share a key/value head.
struct Pass<'a> {
    op: &'a Attention,
    sinks: Option<&'a [f32]>,
    /// Query heads that share the key/value head.
    group: usize,
    kv_head: usize,
    /// First query, counted over tokens, then heads of the group.
    first: usize,
}

impl Pass<'_> {
    /// Where query `row` of the pass stands in `[n_tokens, n_heads]`.
    fn head(&self, row: usize) -> usize {
        (self.first + row) / self.group * self.op.n_heads + self.q_head(row)
    }

    /// Which of the query heads query `row` is.
    fn q_head(&self, row: usize) -> usize {
        self.kv_head * self.group + (self.first + row) % self.group
    }

    /// The positions that query `row` sees.
    fn visible(&self, row: usize) -> std::ops::Range<usize> {
        self.op.visible((self.first + row) / self.group)
    }
}

/// A block of keys.
#[derive(Clone, Copy)]
struct Keys {
    /// Begins a tile, and a block of positions.
    first: usize,
    n: usize,
}

impl Scratch {
    /// For the widest of `caches`.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(caches: &[Cache]) -> Result<Scratch> {
        let width = caches.iter().map(|cache| cache.width).max().unwrap_or(0);
        let coded = |cache: &Cache| !matches!(cache.k, Rows::F32(_) | Rows::F16(_));
        let n_acts = if caches.iter().any(coded) { width / BLOCK + 1 } else { 0 };
        Ok(Scratch {
            scores: zeroed(KEYS, "workspace")?,
            q: zeroed(width, "workspace")?,
            sums: zeroed(width / STEP, "workspace")?,
            acts: (zeroed(n_acts, "workspace")?, zeroed(n_acts, "workspace")?),
        })
    }

    /// Fills everything with NaN.
    pub(super) fn poison(&mut self) {
        self.scores.fill([f32::NAN; ROWS]);
        self.q.fill([f32::NAN; ROWS]);
        self.sums.fill([[f32::NAN; STEP]; ROWS]);
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        let Scratch { scores, q, sums, acts: (single, several) } = self;
        size_of_val(scores.as_slice())
            + size_of_val(q.as_slice())
            + size_of_val(sums.as_slice())
            + size_of_val(single.as_slice())
            + size_of_val(several.as_slice())
    }

    /// `q, out: [n_tokens, n_heads, head_dim]`, `sinks: [n_heads]`
    pub(super) fn attention(
        &mut self,
        op: &Attention,
        sinks: Option<&[f32]>,
        cache: &Cache,
        q: &[f32],
        out: &mut [f32],
    ) {
        let KvDecl { n_kv_heads, head_dim } = cache.decl;
        let group = op.n_heads / n_kv_heads;
        let n_queries = q.len() / head_dim / n_kv_heads;
        for kv_head in 0..n_kv_heads {
            for first in (0..n_queries).step_by(ROWS) {
                let pass = Pass { op, sinks, group, kv_head, first };
                self.pass(&pass, (n_queries - first).min(ROWS), cache, q, out);
            }
        }
    }

    fn pass(&mut self, pass: &Pass, n_rows: usize, cache: &Cache, q: &[f32], out: &mut [f32]) {
        let head_dim = cache.decl.head_dim;
        let (start, end) = (pass.visible(0).start / BLOCK * BLOCK, pass.visible(n_rows - 1).end);
        self.q[..cache.width].fill([0.0; ROWS]);
        let mut sinks = [f32::NEG_INFINITY; ROWS];
        for row in 0..n_rows {
            let q = &q[pass.head(row) * head_dim..][..head_dim];
            for (to, q) in self.q.iter_mut().zip(q) {
                to[row] = q * pass.op.scale;
            }
            if let Some(scores) = pass.sinks {
                sinks[row] = scores[pass.q_head(row)];
            }
        }
        if !matches!(cache.k, Rows::F32(_) | Rows::F16(_)) {
            self.round_queries(n_rows, cache.width / BLOCK);
        }
        self.sums.fill([[0.0; STEP]; ROWS]);
        let sinks = F32x4::load(&sinks);
        let mut largest = sinks.max(F32x4::splat(LOWEST));
        let mut totals = exp(sinks - largest);
        for first in (start..end).step_by(KEYS) {
            let keys = Keys { first, n: KEYS.min(end - first) };
            self.scores(pass, n_rows, cache, keys);
            for row in 0..n_rows {
                let visible = pass.visible(row);
                let before = visible.start.saturating_sub(first).min(keys.n);
                let behind = visible.end.saturating_sub(first).min(keys.n);
                for index in (0..before).chain(behind..keys.n) {
                    self.scores[index][row] = f32::NEG_INFINITY;
                }
            }
            let shrink;
            (shrink, largest, totals) = self.softmax(pass.op.softcap, largest, totals, keys.n);
            self.add_values(pass, n_rows, cache, keys, shrink);
        }
        let totals = totals.to_array();
        for row in 0..n_rows {
            let out = &mut out[pass.head(row) * head_dim..][..head_dim];
            for (out, sums) in out.chunks_mut(STEP).zip(&self.sums) {
                for (out, sum) in out.iter_mut().zip(sums[row]) {
                    *out = sum / totals[row];
                }
            }
        }
    }

    /// Scores of a block of keys; those of rows beyond `n_rows` mean nothing.
    fn scores(&mut self, pass: &Pass, n_rows: usize, cache: &Cache, keys: Keys) {
        match &cache.k {
            Rows::F32(k) => self.float_scores::<ROWS, f32>(pass, cache, k, keys),
            Rows::F16(k) => match n_rows {
                1 => self.float_scores::<1, u16>(pass, cache, k, keys),
                2 => self.float_scores::<2, u16>(pass, cache, k, keys),
                3 => self.float_scores::<3, u16>(pass, cache, k, keys),
                _ => self.float_scores::<4, u16>(pass, cache, k, keys),
            },
            Rows::Q8(k) => self.code_scores(pass, n_rows, cache, k, keys),
            Rows::Q4(k) => self.code_scores(pass, n_rows, cache, k, keys),
        }
    }

    /// Takes the sums times `shrink`, and adds the block's values, weighted by its scores.
    fn add_values(&mut self, pass: &Pass, n_rows: usize, cache: &Cache, keys: Keys, shrink: [f32; ROWS]) {
        match &cache.v {
            Rows::F32(v) => self.float_values::<ROWS, f32>(pass, cache, v, keys, shrink),
            Rows::F16(v) => match n_rows {
                1 => self.float_values::<1, u16>(pass, cache, v, keys, shrink),
                2 => self.float_values::<2, u16>(pass, cache, v, keys, shrink),
                3 => self.float_values::<3, u16>(pass, cache, v, keys, shrink),
                _ => self.float_values::<4, u16>(pass, cache, v, keys, shrink),
            },
            Rows::Q8(v) => self.code_values(pass, n_rows, cache, v, keys, shrink),
            Rows::Q4(v) => self.code_values(pass, n_rows, cache, v, keys, shrink),
        }
    }

    fn float_scores<const R: usize, E: Float>(&mut self, pass: &Pass, cache: &Cache, k: &[E], keys: Keys) {
        // The loops below are unrolled for these.
        const { assert!(R <= ROWS && ROWS == 4 && STEP == 8) };
        let width = cache.width;
        let rows = &k[(pass.kv_head * cache.n_ctx + keys.first) * width..];
        let scores = self.scores[..keys.n.next_multiple_of(ROWS)].as_chunks_mut::<ROWS>().0;
        let queries = self.q[..width].as_chunks::<STEP>().0;
        for (tile, scores) in rows.chunks_exact(width * ROWS).zip(scores) {
            let mut sums = [F32x4::ZERO; R];
            let tile = tile.as_chunks::<ROWS>().0.as_chunks::<STEP>().0;
            for (keys, queries) in tile.iter().zip(queries) {
                unrolled!(i in [0, 1, 2, 3, 4, 5, 6, 7] {
                    let k = E::load(&keys[i]);
                    unrolled!(row in [0, 1, 2, 3] {
                        if row < R {
                            sums[row] = sums[row] + k * F32x4::splat(queries[i][row]);
                        }
                    });
                });
            }
            put_scores(sums, scores);
        }
    }

    fn float_values<const R: usize, E: Float>(
        &mut self,
        pass: &Pass,
        cache: &Cache,
        v: &[E],
        keys: Keys,
        shrink: [f32; ROWS],
    ) {
        let weights = &self.scores[..keys.n];
        let steps = v[pass.kv_head * cache.n_ctx * cache.width..].chunks_exact(cache.n_ctx * STEP);
        for (values, sums) in steps.zip(&mut self.sums[..cache.width / STEP]) {
            let values = &values.as_chunks::<STEP>().0[keys.first..keys.first + keys.n];
            let mut totals = [[F32x4::ZERO; 2]; R];
            unrolled!(row in [0, 1, 2, 3] {
                if row < R {
                    let [low, high] = sums[row].as_chunks::<4>().0 else { unreachable!("STEP is twice 4") };
                    let shrink = F32x4::splat(shrink[row]);
                    totals[row] = [F32x4::load(low) * shrink, F32x4::load(high) * shrink];
                }
            });
            for (values, weights) in values.iter().zip(weights) {
                let [low, high] = values.as_chunks::<4>().0 else { unreachable!("STEP is twice 4") };
                let values = [E::load(low), E::load(high)];
                unrolled!(row in [0, 1, 2, 3] {
                    if row < R {
                        let weight = F32x4::splat(weights[row]);
                        let [low, high] = totals[row];
                        totals[row] = [low + values[0] * weight, high + values[1] * weight];
                    }
                });
            }
            unrolled!(row in [0, 1, 2, 3] {
                if row < R {
                    let [low, high] = sums[row].as_chunks_mut::<4>().0 else { unreachable!("STEP is twice 4") };
                    totals[row][0].store(low);
                    totals[row][1].store(high);
                }
            });
        }
    }

    /// Rounds the queries of a pass; rows beyond `n_rows` are zeros.
    fn round_queries(&mut self, n_rows: usize, n_blocks: usize) {
        let Scratch { q, acts: (single, several), .. } = self;
        let blocks = q.as_chunks::<BLOCK>().0.iter().zip(single).zip(several).take(n_blocks);
        for ((q, single), several) in blocks {
            match n_rows {
                1 => round_block(&q.map(|rows| rows[0]), single, 0),
                _ => (0..ROWS).for_each(|row| round_block(&q.map(|rows| rows[row]), several, row)),
            }
        }
    }

    fn code_scores<C: Codes>(&mut self, pass: &Pass, n_rows: usize, cache: &Cache, k: &[C], keys: Keys) {
        let n_blocks = cache.width / BLOCK;
        let panels = &k[(pass.kv_head * cache.n_ctx + keys.first) * cache.width / PANEL..];
        let scores = self.scores[..keys.n.next_multiple_of(ROWS)].as_chunks_mut::<ROWS>().0;
        let (single, several) = (&self.acts.0[..n_blocks], &self.acts.1[..n_blocks]);
        for (tile, scores) in panels.chunks_exact(n_blocks).zip(scores) {
            match n_rows {
                1 => put_scores(dots(tile, single, true), scores),
                _ => put_scores(dots(tile, several, true), scores),
            }
        }
    }

    fn code_values<C: Codes>(
        &mut self,
        pass: &Pass,
        n_rows: usize,
        cache: &Cache,
        v: &[C],
        keys: Keys,
        shrink: [f32; ROWS],
    ) {
        let n_blocks = cache.width / BLOCK;
        let Scratch { scores, sums, acts: (single, several), .. } = self;
        let (single, several) = (&mut single[n_blocks..], &mut several[n_blocks..]);
        let shrink = shrink.map(F32x4::splat);
        for sums in sums[..cache.width / STEP].iter_mut() {
            for (sums, shrink) in sums.iter_mut().zip(shrink) {
                sums.as_chunks_mut::<4>().0.iter_mut().for_each(|sum| (F32x4::load(sum) * shrink).store(sum));
            }
        }
        let panels = &v[(pass.kv_head * cache.n_ctx + keys.first) * cache.width / PANEL..];
        let positions = panels.chunks_exact(cache.width / ROWS).zip(scores[..keys.n].chunks(BLOCK));
        for (panels, weights) in positions {
            for (block, panels) in panels.chunks_exact(BLOCK / ROWS).enumerate() {
                // What stands behind the last position is not looked at.
                let mut scaled = [[0.0; BLOCK]; ROWS];
                let scales = panels.iter().flat_map(Codes::scale);
                for (at, (weights, scale)) in weights.iter().zip(scales).enumerate() {
                    (0..n_rows).for_each(|row| scaled[row][at] = weights[row] * scale);
                }
                match n_rows {
                    1 => round_block(&scaled[0], &mut single[0], 0),
                    _ => (0..ROWS).for_each(|row| round_block(&scaled[row], &mut several[0], row)),
                }
                for (quad, panel) in panels.iter().enumerate() {
                    let sums = &mut sums[block * (BLOCK / STEP) + quad / 2];
                    let panel = std::slice::from_ref(panel);
                    match n_rows {
                        1 => add(dots(panel, single, false), sums, quad % 2),
                        _ => add(dots(panel, several, false), sums, quad % 2),
                    }
                }
            }
        }
    }

    /// Turns the first `n` scores of each query into weights, given the largest score and the weights' sum before them.
    /// Returns the factor for what was summed before, and the new largest and sum.
    fn softmax(
        &mut self,
        softcap: Option<f32>,
        before: F32x4,
        totals: F32x4,
        n: usize,
    ) -> ([f32; ROWS], F32x4, F32x4) {
        let scores = &mut self.scores[..n];
        let mut largest = before;
        for score in scores.iter_mut() {
            let mut capped = F32x4::load(score);
            if let Some(cap) = softcap {
                // Hidden positions must stay hidden: the cap would make minus infinity an ordinary score.
                let finite = tanh(capped / F32x4::splat(cap)) * F32x4::splat(cap);
                let lanes = capped.to_array().map(|score| score == f32::NEG_INFINITY);
                let mut array = finite.to_array();
                for (score, hidden) in array.iter_mut().zip(lanes) {
                    if hidden {
                        *score = f32::NEG_INFINITY;
                    }
                }
                capped = F32x4::load(&array);
                capped.store(score);
            }
            largest = largest.max(capped);
        }
        let shrink = exp(before - largest);
        let mut totals = totals * shrink;
        for score in scores {
            let weight = exp(F32x4::load(score) - largest);
            totals = totals + weight;
            weight.store(score);
        }
        (shrink.to_array(), largest, totals)
    }
}

/// Turns a vector of a query's scores into a score of each query for each position.
#[inline(always)]
fn put_scores<const R: usize>(sums: [F32x4; R], scores: &mut [[f32; ROWS]; ROWS]) {
    unrolled!(row in [0, 1, 2, 3] {
        if row < R {
            let sums = sums[row].to_array();
            unrolled!(i in [0, 1, 2, 3] {
                scores[i][row] = sums[i];
            });
        }
    });
}

/// Adds four elements' sums of each query.
#[inline(always)]
fn add<const R: usize>(more: [F32x4; R], sums: &mut [[f32; STEP]; ROWS], half: usize) {
    for (more, sums) in more.into_iter().zip(sums) {
        let sum = &mut sums.as_chunks_mut::<4>().0[half];
        (F32x4::load(sum) + more).store(sum);
    }
}
