//! Norms and activations, four elements at a time.
//!
//! Principal function: [`gated_activation`]. Must not know graphs.

use crate::backend::cpu::Norm;
use crate::backend::cpu::simd::F32x4;
use crate::model::spec::{Activation, NormKind};

/// `x, out: [n_rows, width]`; `weight` and `bias` are as wide as a group or as a row.
pub(super) fn norm(op: &Norm, weight: Option<&[f32]>, bias: Option<&[f32]>, x: &[f32], out: &mut [f32]) {
    let Norm { norm, group, .. } = *op;
    for (index, (x, out)) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
        let mean = match norm.kind {
            NormKind::Rms | NormKind::L2 => 0.0,
            NormKind::Layer => sum(x, |x| x) / group as f32,
        };
        let means = F32x4::splat(mean);
        let squares = sum(x, |x| (x - means) * (x - means));
        // Lanes beyond a group's end hold zeros, which count as `mean²` each.
        let padding = (group.next_multiple_of(LANES) - group) as f32 * mean * mean;
        let factor = match norm.kind {
            NormKind::L2 => 1.0 / squares.sqrt().max(norm.eps),
            NormKind::Rms | NormKind::Layer => 1.0 / ((squares - padding) / group as f32 + norm.eps).sqrt(),
        };
        // Narrow vectors are shared by all groups.
        let part = |vector: &'_ [f32]| index * group % vector.len()..vector.len();
        let weight = weight.map(|weight| &weight[part(weight)]);
        match (weight, op.accumulate) {
            (Some(weight), true) => {
                let terms = out.iter_mut().zip(x).zip(weight);
                terms.for_each(|((out, x), weight)| *out += (x - mean) * factor * weight);
            }
            (Some(weight), false) => {
                let terms = out.iter_mut().zip(x).zip(weight);
                terms.for_each(|((out, x), weight)| *out = (x - mean) * factor * weight);
            }
            (None, true) => out.iter_mut().zip(x).for_each(|(out, x)| *out += (x - mean) * factor),
            (None, false) => out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - mean) * factor),
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(&bias[part(bias)]).for_each(|(out, bias)| *out += bias);
        }
    }
}

/// Elements that [`sum`] takes at a time.
const LANES: usize = 8;

/// Sum of `term(x)`, the row filled up with zeros to whole vectors.
#[inline(always)]
fn sum(x: &[f32], term: impl Fn(F32x4) -> F32x4) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(&last);
    let mut sums = [F32x4::splat(0.0); 2];
    for chunk in chunks.iter().chain(last) {
        for (sum, x) in sums.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *sum = *sum + term(F32x4::load(x));
        }
    }
    (sums[0] + sums[1]).sum()
}

/// `gate = activation(gate) * up`
pub(super) fn gated_activation(activation: Activation, up: &[f32], gate: &mut [f32]) {
    match activation {
        Activation::Silu => gated(up, gate, silu),
        Activation::Gelu => gated(up, gate, gelu),
        Activation::GeluTanh => gated(up, gate, gelu_tanh),
        Activation::ClampedSwiglu { alpha, limit } => clamped_swiglu(up, gate, alpha, limit),
    }
}

/// `g * sigmoid(alpha g) * (clamp(up, ±limit) + 1)` with `g = min(gate, limit)`.
fn clamped_swiglu(up: &[f32], gate: &mut [f32], alpha: f32, limit: f32) {
    let (one, limit) = (F32x4::splat(1.0), F32x4::splat(limit));
    let (bottom, alpha) = (F32x4::splat(0.0) - limit, F32x4::splat(-alpha));
    let function = |gate: F32x4, up: F32x4| {
        let gate = gate.min(limit);
        gate / (one + exp(gate * alpha)) * (up.max(bottom).min(limit) + one)
    };
    both(up, gate, function);
}

#[inline(always)]
fn gated(up: &[f32], gate: &mut [f32], function: impl Fn(F32x4) -> F32x4) {
    both(up, gate, |gate, up| function(gate) * up);
}

/// `gate = function(gate, up)`
#[inline(always)]
fn both(up: &[f32], gate: &mut [f32], function: impl Fn(F32x4, F32x4) -> F32x4) {
    let ((up, up_rest), (gate, gate_rest)) = (up.as_chunks::<4>(), gate.as_chunks_mut::<4>());
    for (up, gate) in up.iter().zip(gate) {
        function(F32x4::load(gate), F32x4::load(up)).store(gate);
    }
    for (up, gate) in up_rest.iter().zip(gate_rest) {
        *gate = function(F32x4::splat(*gate), F32x4::splat(*up)).to_array()[0];
    }
}

/// Multipliers for a gate that has none.
const ZEROS: [f32; 64] = [0.0; 64];

/// `out = activation(out)`
pub(super) fn activate(activation: Activation, out: &mut [f32]) {
    match activation {
        Activation::Silu => each(out, silu),
        Activation::Gelu => each(out, gelu),
        Activation::GeluTanh => each(out, gelu_tanh),
        // Times `0 + 1`: the gate alone.
        Activation::ClampedSwiglu { alpha, limit } => {
            out.chunks_mut(ZEROS.len())
                .for_each(|out| clamped_swiglu(&ZEROS[..out.len()], out, alpha, limit));
        }
    }
}

#[inline(always)]
fn each(out: &mut [f32], function: impl Fn(F32x4) -> F32x4) {
    let (out, rest) = out.as_chunks_mut::<4>();
    for out in out {
        function(F32x4::load(out)).store(out);
    }
    for out in rest {
        *out = function(F32x4::splat(*out)).to_array()[0];
    }
}

#[inline(always)]
fn silu(x: F32x4) -> F32x4 {
    x / (F32x4::splat(1.0) + exp(F32x4::splat(0.0) - x))
}

#[inline(always)]
fn gelu_tanh(x: F32x4) -> F32x4 {
    let cubic = x + F32x4::splat(0.044_715) * x * x * x;
    let inner = tanh(F32x4::splat(0.797_884_6) * cubic);
    F32x4::splat(0.5) * x * (F32x4::splat(1.0) + inner)
}

/// With erf by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7.
#[inline(always)]
fn gelu(x: F32x4) -> F32x4 {
    let one = F32x4::splat(1.0);
    let z = x.abs() * F32x4::splat(std::f32::consts::FRAC_1_SQRT_2);
    let t = one / (one + F32x4::splat(0.327_591_1) * z);
    let poly = polynomial(t, [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6, 0.0]);
    let erf = (one - poly * exp(F32x4::splat(0.0) - z * z)).with_sign(x);
    F32x4::splat(0.5) * x * (one + erf)
}

/// `tanh(x)`, by way of the exponential of a magnitude.
#[inline(always)]
pub(super) fn tanh(x: F32x4) -> F32x4 {
    let one = F32x4::splat(1.0);
    let shrunk = exp(x.abs() * F32x4::splat(-2.0));
    ((one - shrunk) / (one + shrunk)).with_sign(x)
}

/// `exp(x)` to about 2 units in the last place; exactly 0 below -87.3, where f32 turns subnormal; as at 88 above it.
#[inline(always)]
pub(super) fn exp(x: F32x4) -> F32x4 {
    // x = n ln 2 + r with ln 2 in two parts, so that r is exact; then 2^n times a polynomial in r. Cephes' expf.
    let lowest = F32x4::splat(-87.3);
    let clamped = x.max(lowest).min(F32x4::splat(88.0));
    let n = (clamped * F32x4::splat(std::f32::consts::LOG2_E)).round();
    let r = clamped - n * F32x4::splat(0.693_359_4) - n * F32x4::splat(-2.121_944_4e-4);
    let coefficients = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    let power = polynomial(r, coefficients) * r * r + r + F32x4::splat(1.0);
    (power * n.exp2_of_integer()).zero_where_below(x, lowest)
}

/// Horner's scheme, highest power first.
#[inline(always)]
fn polynomial(x: F32x4, coefficients: [f32; 6]) -> F32x4 {
    let [first, rest @ ..] = coefficients;
    rest.into_iter().fold(F32x4::splat(first), |sum, next| sum * x + F32x4::splat(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(function: fn(F32x4) -> F32x4, x: f32) -> f64 {
        f64::from(function(F32x4::splat(x)).to_array()[2])
    }

    #[test]
    fn exp_and_tanh_are_close_over_their_range() {
        for step in -8700..=8800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((one(exp, x) / exact - 1.0).abs() < 3e-7, "exp({x}) = {}", one(exp, x));
            assert!((one(tanh, x) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        assert_eq!(one(exp, f32::NEG_INFINITY), 0.0);
        assert!(one(exp, f32::INFINITY).is_finite() && one(exp, f32::NAN).is_nan());
    }

    #[test]
    fn extreme_gates_give_limits() {
        for function in [silu, gelu, gelu_tanh] {
            assert_eq!(one(function, 1e5), 1e5);
            assert!(one(function, -1e5).abs() < 1e-30);
            assert!(one(function, f32::NAN).is_nan());
        }
    }
}
