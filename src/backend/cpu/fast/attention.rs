//! Attention over the KV cache.
//!
//! Principal type: [`Scratch`]. Queries that share a head's keys and values (the heads of a group, and the tokens of a
//! chunk) go through them up to four at a time, and once: a block of keys at a time, with a running maximum of the scores
//! (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"). Floats are multiplied as floats;
//! quantised keys and values by integer dots, with queries and weights rounded to 16 bits. Must not know graphs or
//! weights.

use super::activations::{ActBlock, BLOCK, round_rows};
use super::cache::{Cache, Float, Page, ROWS, Rows, STEP};
use super::codes::{Codes, PANEL, dots};
use super::elementwise::{exp, tanh};
use crate::backend::KV_PAGE;
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
    /// `[width / BLOCK]` rounded queries, and a block of rounded weights behind them.
    acts: Vec<ActBlock<ROWS>>,
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

/// A block of keys, within a page.
#[derive(Clone, Copy)]
struct Keys<'a> {
    page: &'a Page,
    /// Width of a head of the page.
    width: usize,
    /// Begins a tile, and a block of the page's positions.
    first: usize,
    n: usize,
}

impl Scratch {
    /// For the widest of `caches`.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(caches: &[Cache]) -> Result<Scratch> {
        let width = caches.iter().map(|cache| cache.width).max().unwrap_or(0);
        let n_acts = if caches.iter().any(Cache::is_coded) { width / BLOCK + 1 } else { 0 };
        Ok(Scratch {
            scores: zeroed(KEYS, "workspace")?,
            q: zeroed(width, "workspace")?,
            sums: zeroed(width / STEP, "workspace")?,
            acts: zeroed(n_acts, "workspace")?,
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
        let Scratch { scores, q, sums, acts } = self;
        size_of_val(scores.as_slice())
            + size_of_val(q.as_slice())
            + size_of_val(sums.as_slice())
            + size_of_val(acts.as_slice())
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
        let KvDecl { n_kv_heads, head_dim, .. } = cache.decl;
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
        if cache.is_coded() {
            for (q, act) in self.q[..cache.width].as_chunks::<BLOCK>().0.iter().zip(&mut self.acts) {
                round_rows(q, act);
            }
        }
        self.sums.fill([[0.0; STEP]; ROWS]);
        let sinks = F32x4::load(&sinks);
        let mut largest = sinks.max(F32x4::splat(LOWEST));
        let mut totals = exp(sinks - largest);
        let mut first = start;
        while first < end {
            let n = KEYS.min(end - first).min(KV_PAGE - first % KV_PAGE);
            let page = cache.page(first);
            let keys = Keys { page, width: cache.width, first: first % KV_PAGE, n };
            self.scores(pass, n_rows, keys);
            for row in 0..n_rows {
                let visible = pass.visible(row);
                let before = visible.start.saturating_sub(first).min(n);
                let behind = visible.end.saturating_sub(first).min(n);
                for index in (0..before).chain(behind..n) {
                    self.scores[index][row] = f32::NEG_INFINITY;
                }
            }
            let shrink;
            (shrink, largest, totals) = self.softmax(pass.op.softcap, largest, totals, n);
            self.add_values(pass, n_rows, keys, shrink);
            first += n;
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
    fn scores(&mut self, pass: &Pass, n_rows: usize, keys: Keys) {
        match &keys.page.k {
            Rows::F32(k) => self.float_scores::<ROWS, f32>(pass, k, keys),
            Rows::F16(k) => match n_rows {
                1 => self.float_scores::<1, u16>(pass, k, keys),
                2 => self.float_scores::<2, u16>(pass, k, keys),
                3 => self.float_scores::<3, u16>(pass, k, keys),
                _ => self.float_scores::<4, u16>(pass, k, keys),
            },
            Rows::Q8(k) => self.code_scores(pass, n_rows, k, keys),
            Rows::Q4(k) => self.code_scores(pass, n_rows, k, keys),
        }
    }

    /// Takes the sums times `shrink`, and adds the block's values, weighted by its scores.
    fn add_values(&mut self, pass: &Pass, n_rows: usize, keys: Keys, shrink: [f32; ROWS]) {
        match &keys.page.v {
            Rows::F32(v) => self.float_values::<ROWS, f32>(pass, v, keys, shrink),
            Rows::F16(v) => match n_rows {
                1 => self.float_values::<1, u16>(pass, v, keys, shrink),
                2 => self.float_values::<2, u16>(pass, v, keys, shrink),
                3 => self.float_values::<3, u16>(pass, v, keys, shrink),
                _ => self.float_values::<4, u16>(pass, v, keys, shrink),
            },
            Rows::Q8(v) => self.code_values(pass, n_rows, v, keys, shrink),
            Rows::Q4(v) => self.code_values(pass, n_rows, v, keys, shrink),
        }
    }

    fn float_scores<const R: usize, E: Float>(&mut self, pass: &Pass, k: &[E], keys: Keys) {
        // The loops below are unrolled for these.
        const { assert!(R <= ROWS && ROWS == 4 && STEP == 8) };
        let width = keys.width;
        let rows = &k[(pass.kv_head * keys.page.n_ctx + keys.first) * width..];
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
        v: &[E],
        keys: Keys,
        shrink: [f32; ROWS],
    ) {
        let weights = &self.scores[..keys.n];
        let Keys { page: Page { n_ctx, .. }, width, .. } = keys;
        let steps = v[pass.kv_head * n_ctx * width..].chunks_exact(n_ctx * STEP);
        for (values, sums) in steps.zip(&mut self.sums[..width / STEP]) {
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

    fn code_scores<C: Codes>(&mut self, pass: &Pass, n_rows: usize, k: &[C], keys: Keys) {
        let n_blocks = keys.width / BLOCK;
        let panels = &k[(pass.kv_head * keys.page.n_ctx + keys.first) * keys.width / PANEL..];
        let scores = self.scores[..keys.n.next_multiple_of(ROWS)].as_chunks_mut::<ROWS>().0;
        let acts = &self.acts[..n_blocks];
        for (tile, scores) in panels.chunks_exact(n_blocks).zip(scores) {
            match n_rows {
                1 => put_scores::<1>(dots(tile, acts, true), scores),
                2 => put_scores::<2>(dots(tile, acts, true), scores),
                3 => put_scores::<3>(dots(tile, acts, true), scores),
                _ => put_scores::<4>(dots(tile, acts, true), scores),
            }
        }
    }

    fn code_values<C: Codes>(
        &mut self,
        pass: &Pass,
        n_rows: usize,
        v: &[C],
        keys: Keys,
        shrink: [f32; ROWS],
    ) {
        let Keys { page, width, .. } = keys;
        let Scratch { scores, sums, acts, .. } = self;
        let act = &mut acts[width / BLOCK..][..1];
        let shrink = shrink.map(F32x4::splat);
        for sums in sums[..width / STEP].iter_mut() {
            for (sums, shrink) in sums.iter_mut().zip(shrink) {
                sums.as_chunks_mut::<4>().0.iter_mut().for_each(|sum| (F32x4::load(sum) * shrink).store(sum));
            }
        }
        let panels = &v[(pass.kv_head * page.n_ctx + keys.first) * width / PANEL..];
        let positions = panels.chunks_exact(width / ROWS).zip(scores[..keys.n].chunks(BLOCK));
        for (panels, weights) in positions {
            let blocks = panels.as_chunks::<{ BLOCK / ROWS }>().0.iter();
            for (panels, sums) in blocks.zip(sums.as_chunks_mut::<{ BLOCK / STEP }>().0) {
                // What stands behind the last position is not looked at.
                let mut scaled = [[0.0; ROWS]; BLOCK];
                let scales = panels.iter().flat_map(Codes::scale);
                for ((scaled, weights), scale) in scaled.iter_mut().zip(weights).zip(scales) {
                    (F32x4::load(weights) * F32x4::splat(*scale)).store(scaled);
                }
                round_rows(&scaled, &mut act[0]);
                for (panels, sums) in panels.as_chunks::<{ STEP / ROWS }>().0.iter().zip(sums) {
                    for (half, panel) in panels.chunks_exact(1).enumerate() {
                        match n_rows {
                            1 => add::<1>(dots(panel, act, false), sums, half),
                            2 => add::<2>(dots(panel, act, false), sums, half),
                            3 => add::<3>(dots(panel, act, false), sums, half),
                            _ => add::<4>(dots(panel, act, false), sums, half),
                        }
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
