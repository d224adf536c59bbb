//! IQ4_NL: 32 weights of 4 bits that index a table of unevenly spaced values, with one scale. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, nibbles,
};
use crate::tensor::DType;

/// What the codes of IQ4_NL and IQ4_XS stand for.
pub(super) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights: element `i` is `d * VALUES[q]`, nibbles in the order of Q4_0.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq4Nl {
    /// Scale, f16.
    d: [u8; 2],
    /// Codes.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ4_NL,
    name: "iq4_nl",
    ggml_id: Some(20),
    block_len: 32,
    block_bytes: size_of::<BlockIq4Nl>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq4Nl| f16_is_finite(block.d)),
    table: &[],
    wgsl: include_str!("../../shaders/quant/iq4_nl.wgsl"),
};

fn chunks(block: &BlockIq4Nl) -> [Chunk; 1] {
    let codes = nibbles(&block.qs).map(|code| VALUES[code as usize]);
    [Chunk::new(f16_value(block.d), codes)]
}
