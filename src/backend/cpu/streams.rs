//! Ops on parallel residual streams and on whole rows (Gemma 3n), one implementation for both sets of kernels: they
//! take no time beside the products.
//!
//! Principal function: [`stream_mix`]. Must not know graphs.

/// `out = add + Σ_j (coefs[first + j] + offset) * streams[j]`, rows of `width`; a row of `coefs` has `n_coefs`.
pub(super) fn stream_mix<'a>(
    streams: impl Iterator<Item = &'a [f32]> + Clone,
    (coefs, n_coefs): (&[f32], usize),
    (first, offset): (usize, f32),
    add: &[f32],
    width: usize,
    out: &mut [f32],
) {
    out.copy_from_slice(add);
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        let coefs = &coefs[token * n_coefs + first..];
        for (stream, coef) in streams.clone().zip(coefs) {
            let stream = &stream[token * width..][..width];
            out.iter_mut().zip(stream).for_each(|(out, x)| *out += (coef + offset) * x);
        }
    }
}

fn mean_square(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64
}

/// `out = x * rms(like) / max(rms(x), sqrt(1e-5))`, rows of `width`.
pub(super) fn match_magnitude(x: &[f32], like: &[f32], width: usize, out: &mut [f32]) {
    let rows = x.chunks_exact(width).zip(like.chunks_exact(width));
    for ((x, like), out) in rows.zip(out.chunks_exact_mut(width)) {
        let factor = (mean_square(like) / mean_square(x).max(1e-5)).sqrt() as f32;
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor);
    }
}

/// `out = max(x - (mean(x) + factor * std(x)), 0)`, rows of `width`.
pub(super) fn gaussian_top_k(x: &[f32], factor: f32, width: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
        let cutoff = (mean + f64::from(factor) * variance.sqrt()) as f32;
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - cutoff).max(0.0));
    }
}
