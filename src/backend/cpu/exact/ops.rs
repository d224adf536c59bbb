//! The formulas of the ops, in scalar f32 and f64. Principal function: [`attention`].
//! Must not know how weights are stored.

use super::super::{Attention, Norm};
use super::LANES;
use crate::model::graph::KvDecl;
use crate::model::spec::NormKind;
use crate::quant::Format;
use crate::tensor::DType;

/// `a · b`, summed as [`LANES`] says.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut n_sums = LANES;
    while n_sums > 1 {
        n_sums /= 2;
        for lane in 0..n_sums {
            sums[lane] += sums[lane + n_sums];
        }
    }
    sums[0]
}

/// `x, out: [n_rows, width]`; `weight` and `bias` are as wide as a group or as a row.
pub(super) fn norm(op: &Norm, weight: Option<&[f32]>, bias: Option<&[f32]>, x: &[f32], out: &mut [f32]) {
    let Norm { norm, group, .. } = *op;
    for (first, (x, out)) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
        let mean = match norm.kind {
            NormKind::Rms | NormKind::L2 => 0.0,
            NormKind::Layer => x.iter().map(|v| f64::from(*v)).sum::<f64>() / group as f64,
        };
        let squares = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
        let eps = f64::from(norm.eps);
        let factor = match norm.kind {
            NormKind::L2 => 1.0 / squares.sqrt().max(eps),
            NormKind::Rms | NormKind::Layer => 1.0 / (squares / group as f64 + eps).sqrt(),
        };
        for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
            // Narrow vectors are shared by all groups.
            let at = |vector: &[f32]| vector[(first * group + index) % vector.len()];
            let normed = ((f64::from(*x) - mean) * factor) as f32;
            let residual = if op.accumulate { *out } else { 0.0 };
            *out = normed * weight.map_or(1.0, at) + bias.map_or(0.0, at) + residual;
        }
    }
}

/// What `from: [n_heads, head_dim]` is after it was kept as `format`. A half float beyond the largest is the largest.
pub(super) fn round_heads(format: &Format, head_dim: usize, from: &[f32], to: &mut [f32]) {
    let quantize = format.quantize.expect("invariant: caches have formats that can be written");
    let largest = if format.dtype == DType::F16 { 65504.0 } else { f32::MAX };
    let mut block = vec![0.0; head_dim.next_multiple_of(format.block_len)];
    let mut bytes = vec![0; block.len() / format.block_len * format.block_bytes];
    for (from, to) in from.chunks_exact(head_dim).zip(to.chunks_exact_mut(head_dim)) {
        block.fill(0.0);
        block.iter_mut().zip(from).for_each(|(block, from)| *block = from.clamp(-largest, largest));
        quantize(&block, None, &mut bytes);
        (format.dequant)(&bytes, &mut block);
        to.copy_from_slice(&block[..head_dim]);
    }
}

/// `k, v: [n_ctx, n_kv_heads, head_dim]`, `q, out: [n_tokens, n_heads, head_dim]`, `sinks: [n_heads]`,
/// `scores: [n_ctx]` is scratch.
pub(super) fn attention(
    op: &Attention,
    kv: KvDecl,
    (k, v): (&[f32], &[f32]),
    sinks: Option<&[f32]>,
    q: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let KvDecl { n_kv_heads, head_dim, .. } = kv;
    let group = op.n_heads / n_kv_heads;
    let heads = q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
    for (index, (q, out)) in heads.enumerate() {
        let (token, kv_head) = (index / op.n_heads, index % op.n_heads / group);
        let visible = op.visible(token);
        let row = |cache: &'_ [f32], pos: usize| (pos * n_kv_heads + kv_head) * head_dim..cache.len();
        for pos in visible.clone() {
            let score = dot(q, &k[row(k, pos)][..head_dim]) * op.scale;
            scores[pos] = op.softcap.map_or(score, |cap| cap * (score / cap).tanh());
        }
        let scores = &mut scores[visible.clone()];
        let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[index % op.n_heads]);
        let max = scores.iter().copied().fold(sink, f32::max);
        let mut sum = f64::from((sink - max).exp());
        for score in scores.iter_mut() {
            *score = (*score - max).exp();
            sum += f64::from(*score);
        }
        out.fill(0.0);
        for (pos, score) in visible.zip(scores.iter()) {
            let weight = (f64::from(*score) / sum) as f32;
            for (out, v) in out.iter_mut().zip(&v[row(v, pos)]) {
                *out += weight * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_uses_every_element_once() {
        for len in 0..70 {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..len).map(|i| (i * i % 7) as f32).collect();
            let naive: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert_eq!(dot(&a, &b), naive, "length {len}");
        }
    }
}
