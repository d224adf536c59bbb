//! Q2_K: 256 weights of 2 bits in sixteen sub-blocks with four-bit scales and minima. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, search,
    search::Steps, search::each_block,
};
use crate::tensor::DType;

/// 256 weights in 16 sub-blocks of 16: an element of sub-block `j` is `d * (scales[j] & 15) * q - dmin * (scales[j] >> 4)`.
/// The block has two halves of 128, each four runs of 32: run `r` of a half is bits `2r, 2r + 1` of the half's 32
/// bytes of `qs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ2K {
    /// Scale and minimum of each 16 weights, four bits each.
    scales: [u8; 16],
    /// Quants.
    qs: [u8; 64],
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Scale of the minima, f16.
    dmin: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ2K>() == 84);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q2_K,
    name: "q2_k",
    ggml_id: Some(10),
    block_len: 256,
    block_bytes: size_of::<BlockQ2K>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::NibbleHalves,
    non_finite: |bytes| {
        first_block(bytes, |block: &BlockQ2K| f16_is_finite(block.d) && f16_is_finite(block.dmin))
    },
    quantize: Some(quantize),
    table: &[],
    planes: &[(80, 4), (0, 16), (16, 64)],
    wgsl: wgsl!("quant/q2_k"),
};

fn chunks(block: &BlockQ2K) -> [Chunk; 8] {
    let (d, dmin) = (f16_value(block.d), f16_value(block.dmin));
    std::array::from_fn(|part| {
        let group = &block.qs[part / 4 * 32..][..32];
        let codes = std::array::from_fn(|i| (group[i] >> (part % 4 * 2) & 3) as i8);
        let pair = [block.scales[2 * part], block.scales[2 * part + 1]];
        Chunk {
            scales: pair.map(|both| d * f32::from(both & 15)),
            offsets: pair.map(|both| -(dmin * f32::from(both >> 4))),
            codes,
        }
    })
}

/// As ggml's `quantize_q2_K`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, importance, out, |x: &[f32; 256], importance| {
        let groups: &[[f32; 16]; 16] = bytemuck::cast_ref(x);
        let mut codes = [[0u8; 16]; 16];
        let (mut scales, mut mins, mut group_weights) = ([0.0; 16], [0.0; 16], [0.0f32; 16]);
        let sigma2 = search::square_sum(x) / 256.0;
        for (j, x) in groups.iter().enumerate() {
            let (weights, steps) = match importance {
                Some(importance) => {
                    let steps = Steps { first: -0.9, step: 0.05, n: 36, by_magnitude: false };
                    (search::weights(&importance[16 * j..], sigma2, x), steps)
                }
                None => (x.map(f32::abs), Steps { first: -0.5, step: 0.1, n: 15, by_magnitude: true }),
            };
            group_weights[j] = weights.iter().fold(0.0, |sum, weight| sum + weight);
            (scales[j], mins[j], codes[j]) = search::affine(3, x, &weights, steps);
        }
        let ((scale, scales), (min, mins)) = match importance {
            Some(_) => {
                (search::positive(15, &scales, &group_weights), search::positive(15, &mins, &group_weights))
            }
            None => (largest_as_15(&scales), largest_as_15(&mins)),
        };
        let ((d, scale), (dmin, min)) = (search::half(scale), search::half(min));
        for (j, (x, codes)) in groups.iter().zip(&mut codes).enumerate() {
            let (scale, min) = (scale * f32::from(scales[j]), min * f32::from(mins[j]));
            if scale != 0.0 {
                *codes = x.map(|x| search::nearest((x + min) / scale).clamp(0, 3) as u8);
            }
        }
        let codes: [u8; 256] = bytemuck::cast(codes);
        let qs = std::array::from_fn(|i| {
            let at = i / 32 * 128 + i % 32;
            (0..4).fold(0, |bits, run| bits | (codes[at + 32 * run] & 3) << (2 * run))
        });
        BlockQ2K { scales: std::array::from_fn(|j| scales[j] | mins[j] << 4), qs, d, dmin }
    });
}

/// Four-bit codes of numbers that are not negative, the largest as 15, and their scale.
fn largest_as_15(x: &[f32; 16]) -> (f32, [u8; 16]) {
    let max = x.iter().fold(0.0f32, |max, x| if *x > max { *x } else { max });
    if max <= 0.0 {
        return (0.0, [0; 16]);
    }
    let inverse = 15.0 / max;
    (max / 15.0, x.map(|x| search::nearest(inverse * x) as u8))
}
