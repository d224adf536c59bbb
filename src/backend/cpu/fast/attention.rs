//! The KV cache in f16, and attention over it.
//!
//! Principal type: [`Cache`]. Keys lie in tiles of four positions, so that one vector of scores has a lane per
//! position; values lie in rows. Queries that share a head's keys and values (the heads of a group, and the tokens of
//! a chunk) go through them up to four at a time, so each f16 is converted once for four queries.
//! Must not know graphs or weights.

use half::f16;

use super::elementwise::{exp, tanh};
use crate::backend::cpu::Attention;
use crate::backend::cpu::plan::zeroed;
use crate::backend::cpu::simd::{F32x4, unrolled};
use crate::error::Result;
use crate::model::graph::KvDecl;

/// Queries of a pass, and positions of a tile of keys.
const ROWS: usize = 4;

/// Elements of a head that the inner loops take at a time.
const STEP: usize = 8;

/// Keys and values of one layer.
pub(super) struct Cache {
    pub(super) decl: KvDecl,
    /// Positions, a multiple of [`ROWS`].
    n_ctx: usize,
    /// Width of a head, filled up with zeros to a multiple of [`STEP`].
    width: usize,
    /// `[n_kv_heads, n_ctx / ROWS, width, ROWS]`
    k: Vec<u16>,
    /// `[n_kv_heads, width / STEP, n_ctx, STEP]`
    v: Vec<u16>,
}

/// What a pass works with; shared by all layers.
pub(super) struct Scratch {
    /// `[n_ctx, ROWS]` scores.
    scores: Vec<[f32; ROWS]>,
    /// `[width, ROWS]` queries.
    q: Vec<[f32; ROWS]>,
    /// `[width / STEP, ROWS]` sums.
    sums: Vec<[[f32; STEP]; ROWS]>,
}

impl Cache {
    /// Bytes that the keys and values of `n_ctx` positions take.
    pub(super) fn bytes(decl: &KvDecl, n_ctx: usize) -> u64 {
        let (n_ctx, width) = (n_ctx.next_multiple_of(ROWS), decl.head_dim.next_multiple_of(STEP));
        2 * (decl.n_kv_heads * size_of::<u16>()) as u64 * n_ctx as u64 * width as u64
    }

    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(decl: KvDecl, n_ctx: usize) -> Result<Cache> {
        let (n_ctx, width) = (n_ctx.next_multiple_of(ROWS), decl.head_dim.next_multiple_of(STEP));
        let len = decl.n_kv_heads * n_ctx * width;
        let (k, v) = (zeroed(len, "KV cache")?, zeroed(len, "KV cache")?);
        Ok(Cache { decl, n_ctx, width, k, v })
    }

    /// Stores `k, v: [n_kv_heads, head_dim]` at `pos`.
    pub(super) fn write(&mut self, pos: usize, k: &[f32], v: &[f32]) {
        let head_dim = self.decl.head_dim;
        let head_len = self.n_ctx * self.width;
        let heads = self.k.chunks_exact_mut(head_len).zip(self.v.chunks_exact_mut(head_len));
        for ((k_head, v_head), (k, v)) in heads.zip(k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim))) {
            let tile = k_head[pos / ROWS * ROWS * self.width..].as_chunks_mut::<ROWS>().0;
            for (to, k) in tile.iter_mut().zip(k) {
                to[pos % ROWS] = to_f16(*k);
            }
            let steps = v_head.chunks_exact_mut(self.n_ctx * STEP);
            for (to, v) in steps.zip(v.chunks(STEP)) {
                for (to, v) in to[pos * STEP..].iter_mut().zip(v) {
                    *to = to_f16(*v);
                }
            }
        }
    }

    /// Fills the positions from `pos` on with the largest f16, which no computation survives unnoticed.
    pub(super) fn poison(&mut self, pos: usize) {
        let KvDecl { n_kv_heads, head_dim } = self.decl;
        for pos in pos..self.n_ctx {
            self.write(pos, &vec![f32::MAX; n_kv_heads * head_dim], &vec![f32::MAX; n_kv_heads * head_dim]);
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        2 * (self.k.len() + self.v.len())
    }
}

/// Values beyond f16's range become its largest: [`F32x4::load_f16`] knows no infinities. NaN becomes a large value.
fn to_f16(value: f32) -> u16 {
    const LARGEST: f32 = 65504.0;
    f16::from_f32(value.clamp(-LARGEST, LARGEST)).to_bits()
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

impl Scratch {
    /// For the widest of `caches`.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(caches: &[Cache]) -> Result<Scratch> {
        let largest = |size: fn(&Cache) -> usize| caches.iter().map(size).max().unwrap_or(0);
        Ok(Scratch {
            scores: zeroed(largest(|cache| cache.n_ctx), "workspace")?,
            q: zeroed(largest(|cache| cache.width), "workspace")?,
            sums: zeroed(largest(|cache| cache.width / STEP), "workspace")?,
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
        let Scratch { scores, q, sums } = self;
        size_of_val(scores.as_slice()) + size_of_val(q.as_slice()) + size_of_val(sums.as_slice())
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
                match n_queries - first {
                    1 => self.pass::<1>(&pass, cache, q, out),
                    2 => self.pass::<2>(&pass, cache, q, out),
                    3 => self.pass::<3>(&pass, cache, q, out),
                    _ => self.pass::<4>(&pass, cache, q, out),
                }
            }
        }
    }

    fn pass<const R: usize>(&mut self, pass: &Pass, cache: &Cache, q: &[f32], out: &mut [f32]) {
        // The loops below are unrolled for these.
        const { assert!(R <= ROWS && ROWS == 4 && STEP == 8) };
        let head_dim = cache.decl.head_dim;
        let start = pass.visible(0).start / ROWS * ROWS;
        let end = pass.visible(R - 1).end;
        self.q[..cache.width].fill([0.0; ROWS]);
        for row in 0..R {
            let q = &q[pass.head(row) * head_dim..][..head_dim];
            for (to, q) in self.q.iter_mut().zip(q) {
                to[row] = q * pass.op.scale;
            }
        }
        self.scores::<R>(pass, cache, start, end);
        let mut sinks = [f32::NEG_INFINITY; ROWS];
        if let Some(scores) = pass.sinks {
            (0..R).for_each(|row| sinks[row] = scores[pass.q_head(row)]);
        }
        let totals = self.softmax(pass.op.softcap, sinks, end - start);
        self.weighted_values::<R>(pass, cache, start, end);
        for row in 0..R {
            let out = &mut out[pass.head(row) * head_dim..][..head_dim];
            for (out, sums) in out.chunks_mut(STEP).zip(&self.sums) {
                for (out, sum) in out.iter_mut().zip(sums[row]) {
                    *out = sum / totals[row];
                }
            }
        }
    }

    /// Scores of the positions `start..end`, minus infinity where a query does not look. `start` begins a tile.
    fn scores<const R: usize>(&mut self, pass: &Pass, cache: &Cache, start: usize, end: usize) {
        let width = cache.width;
        let keys = &cache.k[pass.kv_head * cache.n_ctx * width..][start * width..cache.n_ctx * width];
        let scores = self.scores[..(end - start).next_multiple_of(ROWS)].as_chunks_mut::<ROWS>().0;
        let queries = self.q[..width].as_chunks::<STEP>().0;
        for (tile, scores) in keys.chunks_exact(width * ROWS).zip(scores) {
            let mut sums = [F32x4::ZERO; R];
            let tile = tile.as_chunks::<ROWS>().0.as_chunks::<STEP>().0;
            for (keys, queries) in tile.iter().zip(queries) {
                unrolled!(i in [0, 1, 2, 3, 4, 5, 6, 7] {
                    let k = F32x4::load_f16(&keys[i]);
                    unrolled!(row in [0, 1, 2, 3] {
                        if row < R {
                            sums[row] = sums[row] + k * F32x4::splat(queries[i][row]);
                        }
                    });
                });
            }
            unrolled!(row in [0, 1, 2, 3] {
                if row < R {
                    let sums = sums[row].to_array();
                    unrolled!(i in [0, 1, 2, 3] {
                        scores[i][row] = sums[i];
                    });
                }
            });
        }
        for row in 0..R {
            let visible = pass.visible(row);
            let n_scores = (end - start).next_multiple_of(ROWS);
            let hidden = (0..visible.start - start).chain(visible.end - start..n_scores);
            for index in hidden {
                self.scores[index][row] = f32::NEG_INFINITY;
            }
        }
    }

    /// Turns the first `n` scores of each query into weights; returns the weights' sums, with that of the sinks.
    fn softmax(&mut self, softcap: Option<f32>, sinks: [f32; ROWS], n: usize) -> [f32; ROWS] {
        let scores = &mut self.scores[..n];
        let sinks = F32x4::load(&sinks);
        let mut largest = sinks;
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
        let mut totals = exp(sinks - largest);
        for score in scores {
            let weight = exp(F32x4::load(score) - largest);
            totals = totals + weight;
            weight.store(score);
        }
        totals.to_array()
    }

    /// Sums of the values at `start..end`, weighted by the scores.
    fn weighted_values<const R: usize>(&mut self, pass: &Pass, cache: &Cache, start: usize, end: usize) {
        let weights = &self.scores[..end - start];
        let step_len = cache.n_ctx * STEP;
        let steps = cache.v[pass.kv_head * cache.n_ctx * cache.width..].chunks_exact(step_len);
        for (values, sums) in steps.zip(&mut self.sums[..cache.width / STEP]) {
            let values = &values.as_chunks::<STEP>().0[start..end];
            let mut totals = [[F32x4::ZERO; 2]; R];
            for (values, weights) in values.iter().zip(weights) {
                let [low, high] = values.as_chunks::<4>().0 else { unreachable!("STEP is twice 4") };
                let values = [F32x4::load_f16(low), F32x4::load_f16(high)];
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
}
