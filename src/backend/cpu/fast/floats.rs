//! Matrix products with rows of F32, F16 or BF16, by f32 dots.
//!
//! Principal function: [`float_rows`]. Must not know how a row is stored: it is handed over decoded.

use super::activations::TILE;
use super::matmul::Finish;
use crate::backend::cpu::simd::{F32x4, unrolled};

/// `out: [n_tokens, n_rows]` from float rows and `x: [n_tokens, n_cols]`. `decode(index, row)` gives a row in f32;
/// `row: [n_cols]` is scratch.
pub(super) fn float_rows(
    decode: impl Fn(usize, &mut [f32]),
    row: &mut [f32],
    x: &[f32],
    n_rows: usize,
    finish: &Finish,
    out: &mut [f32],
) {
    let n_cols = row.len();
    for index in 0..n_rows {
        decode(index, row);
        for (x, out) in x.chunks(TILE * n_cols).zip(out.chunks_mut(TILE * n_rows)) {
            let mut sums = [0.0; TILE];
            if x.len() == TILE * n_cols {
                let tokens = std::array::from_fn(|token| &x[token * n_cols..][..n_cols]);
                sums = dots(row, tokens);
            } else {
                for (sum, x) in sums.iter_mut().zip(x.chunks_exact(n_cols)) {
                    [*sum] = dots(row, [x]);
                }
            }
            for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(n_rows)) {
                finish.write(index, sum, out);
            }
        }
    }
}

/// The dot products of a row with `T` tokens of the same length.
#[inline(always)]
fn dots<const T: usize>(row: &[f32], tokens: [&[f32]; T]) -> [f32; T] {
    const STEP: usize = 8;
    let (row, row_rest) = row.as_chunks::<STEP>();
    let tokens = tokens.map(|token| token.as_chunks::<STEP>());
    const { assert!(T <= 4) };
    let mut sums = [[F32x4::ZERO; 2]; T];
    for (index, row) in row.iter().enumerate() {
        let row = halves(row);
        unrolled!(t in [0, 1, 2, 3] {
            if t < T {
                let x = halves(&tokens[t].0[index]);
                sums[t] = [sums[t][0] + row[0] * x[0], sums[t][1] + row[1] * x[1]];
            }
        });
    }
    let mut products = [0.0; T];
    unrolled!(t in [0, 1, 2, 3] {
        if t < T {
            let rest: f32 = row_rest.iter().zip(tokens[t].1).map(|(a, b)| a * b).sum();
            products[t] = (sums[t][0] + sums[t][1]).sum() + rest;
        }
    });
    products
}

#[inline(always)]
fn halves(values: &[f32; 8]) -> [F32x4; 2] {
    let [low, high] = values.as_chunks::<4>().0 else { unreachable!("8 is twice 4") };
    [F32x4::load(low), F32x4::load(high)]
}

/// Decodes finite f16 values.
pub(super) fn decode_f16(bits: &[u16], out: &mut [f32]) {
    decode(bits, out, F32x4::load_f16);
}

/// Decodes bf16 values.
pub(super) fn decode_bf16(bits: &[u16], out: &mut [f32]) {
    decode(bits, out, F32x4::load_bf16);
}

fn decode(bits: &[u16], out: &mut [f32], load: impl Fn(&[u16; 4]) -> F32x4) {
    let ((bits, bits_rest), (out, out_rest)) = (bits.as_chunks::<4>(), out.as_chunks_mut::<4>());
    for (bits, out) in bits.iter().zip(out) {
        load(bits).store(out);
    }
    let mut last = [0; 4];
    last[..bits_rest.len()].copy_from_slice(bits_rest);
    out_rest.copy_from_slice(&load(&last).to_array()[..bits_rest.len()]);
}
