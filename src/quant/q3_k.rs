//! Q3_K: 256 weights of 3 bits in sixteen sub-blocks with six-bit scales. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 256 weights in 16 sub-blocks of 16: an element of sub-block `j` is `d * (scale[j] - 32) * (q - 4)`. The low two bits
/// of `q` lie as in Q2_K; the third of element `l` of run `r` (0..8, 32 weights each) is bit `r` of `hmask[l]`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ3K {
    /// Third bits.
    hmask: [u8; 32],
    /// Low two bits.
    qs: [u8; 64],
    /// Six-bit scales: the low four bits of 0..8 in the low nibbles of bytes 0..8, those of 8..16 in the high ones; the
    /// high two of scale `j` in bits `2 (j / 4)` of byte `8 + j % 4`.
    scales: [u8; 12],
    /// Scale of the scales, f16.
    d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ3K>() == 110);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q3_K,
    name: "q3_k",
    ggml_id: Some(11),
    block_len: 256,
    block_bytes: size_of::<BlockQ3K>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbleHalves,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ3K| f16_is_finite(block.d)),
    table: &[],
    wgsl: include_str!("../../shaders/quant/q3_k.wgsl"),
};

fn scale(scales: &[u8; 12], j: usize) -> f32 {
    let low = scales[j % 8] >> (j / 8 * 4) & 15;
    let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
    f32::from(low | high << 4) - 32.0
}

fn chunks(block: &BlockQ3K) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|part| {
        let group = &block.qs[part / 4 * 32..][..32];
        let code = |i: usize| group[i] >> (part % 4 * 2) & 3 | (block.hmask[i] >> part & 1) << 2;
        let codes = std::array::from_fn(|i| code(i) as i8 - 4);
        Chunk::halves([0, 1].map(|half| d * scale(&block.scales, 2 * part + half)), codes)
    })
}
