//! The formulas of the ops, in scalar f32 and f64. Principal function: [`attention`].
//! Must not know how weights are stored.

use super::super::Attention;
use super::LANES;
use crate::model::graph::KvDecl;
use crate::model::spec::{Activation, NormKind, NormSpec};

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

/// `x, out: [n_rows, width]`, `weight, bias: [width]`.
pub(super) fn norm(norm: NormSpec, weight: &[f32], bias: Option<&[f32]>, x: &[f32], out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = match norm.kind {
            NormKind::Rms | NormKind::L2 => 0.0,
            NormKind::Layer => x.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64,
        };
        let squares = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
        let eps = f64::from(norm.eps);
        let factor = match norm.kind {
            NormKind::L2 => 1.0 / squares.sqrt().max(eps),
            NormKind::Rms | NormKind::Layer => 1.0 / (squares / width as f64 + eps).sqrt(),
        };
        for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
            let normed = ((f64::from(*x) - mean) * factor) as f32;
            *out = normed * weight[index] + bias.map_or(0.0, |bias| bias[index]);
        }
    }
}

/// `k, v: [n_ctx, n_kv_heads, head_dim]`, `q, out: [n_tokens, n_heads, head_dim]`, `scores: [n_ctx]` is scratch.
pub(super) fn attention(
    op: &Attention,
    kv: KvDecl,
    k: &[f32],
    v: &[f32],
    q: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let KvDecl { n_kv_heads, head_dim } = kv;
    let group = op.n_heads / n_kv_heads;
    let heads = q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
    for (index, (q, out)) in heads.enumerate() {
        let (token, kv_head) = (index / op.n_heads, index % op.n_heads / group);
        let end = op.pos + token + 1;
        let start = op.window.map_or(0, |window| end.saturating_sub(window));
        let row = |cache: &'_ [f32], pos: usize| (pos * n_kv_heads + kv_head) * head_dim..cache.len();
        for pos in start..end {
            let score = dot(q, &k[row(k, pos)][..head_dim]) * op.scale;
            scores[pos] = op.softcap.map_or(score, |cap| cap * (score / cap).tanh());
        }
        let scores = &mut scores[start..end];
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0f64;
        for score in scores.iter_mut() {
            *score = (*score - max).exp();
            sum += f64::from(*score);
        }
        out.fill(0.0);
        for (pos, score) in (start..end).zip(scores.iter()) {
            let weight = (f64::from(*score) / sum) as f32;
            for (out, v) in out.iter_mut().zip(&v[row(v, pos)]) {
                *out += weight * v;
            }
        }
    }
}

/// `activation(x)`, computed in f64.
pub(super) fn activation(activation: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let value = match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    };
    value as f32
}

/// Error function, by the series `2/sqrt(pi) exp(-x²) sum 2^n x^(2n+1) / (2n+1)!!`, whose terms all have one sign.
fn erf(x: f64) -> f64 {
    // Beyond 6 it is 1 to the last bit of an f64.
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > sum.abs() * 1e-17 {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_the_values_of_the_tables() {
        for (x, value) in [(0.0, 0.0), (0.5, 0.520499877813), (1.0, 0.842700792950), (2.0, 0.995322265019)] {
            assert!(
                (erf(x) - value).abs() < 1e-11 && (erf(-x) + value).abs() < 1e-11,
                "erf({x}) = {}",
                erf(x)
            );
        }
        assert!(erf(f64::NAN).is_nan());
    }

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
