//! TQ2_0: 256 ternary weights of two bits with one scale. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 256 weights: `d * (q - 1)`; the two bits of `q` lie as in Q2_K.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockTq2_0 {
    /// Quants.
    qs: [u8; 64],
    /// Scale, f16.
    d: [u8; 2],
}

const _: () = assert!(size_of::<BlockTq2_0>() == 66);

pub(super) const FORMAT: Format = Format {
    dtype: DType::TQ2_0,
    name: "tq2_0",
    ggml_id: Some(35),
    block_len: 256,
    block_bytes: size_of::<BlockTq2_0>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbles,
    non_finite: |bytes| first_block(bytes, |block: &BlockTq2_0| f16_is_finite(block.d)),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/tq2_0"),
};

fn chunks(block: &BlockTq2_0) -> [Chunk; 8] {
    std::array::from_fn(|part| {
        let group = &block.qs[part / 4 * 32..][..32];
        let codes = std::array::from_fn(|i| (group[i] >> (part % 4 * 2) & 3) as i8 - 1);
        Chunk::new(f16_value(block.d), codes)
    })
}
