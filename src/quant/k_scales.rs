//! The six-bit scales and minima that Q4_K and Q5_K pack into twelve bytes, and how they are chosen. Knows only these.

use super::search::{self, Steps};

/// Scale and minimum of sub-block `j` (0..8, 32 weights each).
///
/// Sub-blocks 0..4 have theirs in the low six bits of bytes `j` (scale) and `j + 4` (minimum). Sub-blocks 4..8 have
/// the low four bits in the nibbles of byte `j + 4` and the high two in the top bits of bytes `j - 4` and `j`.
pub(super) fn k_scale_min(scales: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    }
}

/// The reverse of [`k_scale_min`] for all sub-blocks.
fn pack(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
    }
    packed
}

/// A block of 256 weights, quantised.
pub(super) struct KBlock {
    pub(super) d: [u8; 2],
    pub(super) dmin: [u8; 2],
    pub(super) scales: [u8; 12],
    pub(super) codes: [u8; 256],
}

/// Quantises with codes `0..=limit`, without importance by `steps`.
pub(super) fn k_block(limit: i32, x: &[f32; 256], importance: Option<&[f32; 256]>, steps: Steps) -> KBlock {
    let groups: &[[f32; 32]; 8] = bytemuck::cast_ref(x);
    let mut codes = [[0; 32]; 8];
    let (mut scales, mut mins) = ([0.0; 8], [0.0; 8]);
    let mut group_weights = [0.0f32; 8];
    let sigma2 = 2.0 * search::square_sum(x) / 256.0;
    for (j, x) in groups.iter().enumerate() {
        let (weights, steps) = match importance {
            Some(importance) => {
                let steps = Steps { first: -0.9, step: 0.05, n: 36, by_magnitude: false };
                (search::weights(&importance[32 * j..], sigma2, x), steps)
            }
            None => {
                let root_mean_square = (search::square_sum(x) / 32.0).sqrt();
                (x.map(|x| root_mean_square + x.abs()), steps)
            }
        };
        group_weights[j] = weights.iter().fold(0.0, |sum, weight| sum + weight);
        (scales[j], mins[j], codes[j]) = search::affine(limit, x, &weights, steps);
    }
    let ((scale, scales), (min, mins)) = match importance {
        Some(_) => {
            (search::positive(63, &scales, &group_weights), search::positive(63, &mins, &group_weights))
        }
        None => (largest_as_63(&scales), largest_as_63(&mins)),
    };
    let ((d, scale), (dmin, min)) = (search::half(scale), search::half(min));
    for (j, (x, codes)) in groups.iter().zip(&mut codes).enumerate() {
        let scale = scale * f32::from(scales[j]);
        let min = min * f32::from(mins[j]);
        if scale != 0.0 {
            *codes = x.map(|x| search::nearest((x + min) / scale).clamp(0, limit) as u8);
        }
    }
    KBlock { d, dmin, scales: pack(scales, mins), codes: bytemuck::cast(codes) }
}

/// Six-bit codes of numbers that are not negative, the largest as 63, and their scale.
fn largest_as_63(x: &[f32; 8]) -> (f32, [u8; 8]) {
    let max = x.iter().fold(0.0f32, |max, x| if *x > max { *x } else { max });
    let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
    (max / 63.0, x.map(|x| (search::nearest(inverse * x) as u8).min(63)))
}
