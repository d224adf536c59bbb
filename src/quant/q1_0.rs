//! Q1_0: 128 weights of one bit with one scale. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 128 weights: element `i` is `d` where bit `i % 8` of `qs[i / 8]` is set, else `-d`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ1_0 {
    /// Scale, f16.
    d: [u8; 2],
    /// Signs.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ1_0>() == 18);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q1_0,
    name: "q1_0",
    ggml_id: Some(41),
    block_len: 128,
    block_bytes: size_of::<BlockQ1_0>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbles,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ1_0| f16_is_finite(block.d)),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/q1_0"),
};

fn chunks(block: &BlockQ1_0) -> [Chunk; 4] {
    std::array::from_fn(|part| {
        let bit = |i: usize| block.qs[4 * part + i / 8] >> (i % 8) & 1;
        Chunk::new(f16_value(block.d), std::array::from_fn(|i| 2 * bit(i) as i8 - 1))
    })
}
