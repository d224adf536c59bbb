//! Q5_K: 256 weights of 5 bits in eight sub-blocks with six-bit scales and minima. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, k_scale_min,
    k_scales::KBlock, k_scales::k_block, search::Steps, search::each_block,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: an element of sub-block `j` is `d * scale[j] * q - dmin * min[j]`. The low four
/// bits of `q` lie as in Q4_K, the fifth bit of element `l` of sub-block `j` is bit `j` of `qh[l]`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ5K {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Scale of the minima, f16.
    dmin: [u8; 2],
    /// Six-bit scales and minima, see [`k_scale_min`].
    scales: [u8; 12],
    /// Fifth bits.
    qh: [u8; 32],
    /// Low four bits.
    qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q5_K,
    name: "q5_k",
    ggml_id: Some(13),
    block_len: 256,
    block_bytes: size_of::<BlockQ5K>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesOffset,
    non_finite: |bytes| {
        first_block(bytes, |block: &BlockQ5K| f16_is_finite(block.d) && f16_is_finite(block.dmin))
    },
    quantize: Some(quantize),
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/q5_k"),
};

fn dequant(block: &BlockQ5K, out: &mut [f32; 256]) {
    let (d, dmin) = (f16_value(block.d), f16_value(block.dmin));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = k_scale_min(&block.scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let shift = 4 * (j % 2);
        let group = &block.qs[j / 2 * 32..][..32];
        for ((out, byte), high) in out.iter_mut().zip(group).zip(&block.qh) {
            let q = byte >> shift & 15 | (high >> j & 1) << 4;
            *out = scale * f32::from(q) - min;
        }
    }
}

fn chunks(block: &BlockQ5K) -> [Chunk; 8] {
    let (d, dmin) = (f16_value(block.d), f16_value(block.dmin));
    std::array::from_fn(|part| {
        let (scale, min) = k_scale_min(&block.scales, part);
        let group = &block.qs[part / 2 * 32..][..32];
        let code = |i: usize| group[i] >> (part % 2 * 4) & 15 | (block.qh[i] >> part & 1) << 4;
        let codes = std::array::from_fn(|i| code(i) as i8);
        let offsets = [-(dmin * f32::from(min)); 2];
        Chunk { offsets, ..Chunk::new(d * f32::from(scale), codes) }
    })
}

/// As ggml's `quantize_q5_K`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, importance, out, |x: &[f32; 256], importance| {
        let steps = Steps { first: -0.5, step: 0.1, n: 15, by_magnitude: false };
        let KBlock { d, dmin, scales, codes } = k_block(31, x, importance, steps);
        let qh = std::array::from_fn(|l| (0..8).fold(0, |bits, j| bits | (codes[32 * j + l] >> 4) << j));
        let qs = std::array::from_fn(|i| {
            let at = i / 32 * 64 + i % 32;
            codes[at] & 15 | codes[at + 32] << 4
        });
        BlockQ5K { d, dmin, scales, qh, qs }
    });
}
