//! Q4_K: 256 weights of 4 bits in eight sub-blocks with six-bit scales and minima. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, k_scale_min,
    k_scales::KBlock, k_scales::k_block, search::Steps, search::each_block,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: an element of sub-block `j` is `d * scale[j] * q - dmin * min[j]`.
/// `qs` holds 4 groups of 32 bytes: the low nibbles of group `g` are sub-block `2g`, the high ones `2g + 1`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ4K {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Scale of the minima, f16.
    dmin: [u8; 2],
    /// Six-bit scales and minima, see [`k_scale_min`].
    scales: [u8; 12],
    /// Quants.
    qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q4_K,
    name: "q4_k",
    ggml_id: Some(12),
    block_len: 256,
    block_bytes: size_of::<BlockQ4K>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Nibbles,
    non_finite: |bytes| {
        first_block(bytes, |block: &BlockQ4K| f16_is_finite(block.d) && f16_is_finite(block.dmin))
    },
    quantize: Some(quantize),
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/q4_k"),
};

fn dequant(block: &BlockQ4K, out: &mut [f32; 256]) {
    let (d, dmin) = (f16_value(block.d), f16_value(block.dmin));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = k_scale_min(&block.scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let shift = 4 * (j % 2);
        let group = &block.qs[j / 2 * 32..][..32];
        for (out, byte) in out.iter_mut().zip(group) {
            *out = scale * f32::from(byte >> shift & 15) - min;
        }
    }
}

fn chunks(block: &BlockQ4K) -> [Chunk; 8] {
    let (d, dmin) = (f16_value(block.d), f16_value(block.dmin));
    std::array::from_fn(|part| {
        let (scale, min) = k_scale_min(&block.scales, part);
        let group = &block.qs[part / 2 * 32..][..32];
        let codes = std::array::from_fn(|i| (group[i] >> (part % 2 * 4) & 15) as i8);
        let offsets = [-(dmin * f32::from(min)); 2];
        Chunk { offsets, ..Chunk::new(d * f32::from(scale), codes) }
    })
}

/// As ggml's `quantize_q4_K`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, importance, out, |x: &[f32; 256], importance| {
        let steps = Steps { first: -1e+00, step: 0.1, n: 20, by_magnitude: false };
        let KBlock { d, dmin, scales, codes } = k_block(15, x, importance, steps);
        let qs = std::array::from_fn(|i| {
            let at = i / 32 * 64 + i % 32;
            codes[at] & 15 | codes[at + 32] << 4
        });
        BlockQ4K { d, dmin, scales, qs }
    });
}
