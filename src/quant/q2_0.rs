//! Q2_0: 64 weights of two bits with one scale. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 64 weights: element `i` is `d * (q - 1)`, where `q` is bits `2 (i % 4)` and above of `qs[i / 4]`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ2_0 {
    /// Scale, f16.
    d: [u8; 2],
    /// Quants.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ2_0>() == 18);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q2_0,
    name: "q2_0",
    ggml_id: Some(42),
    block_len: 64,
    block_bytes: size_of::<BlockQ2_0>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbles,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ2_0| f16_is_finite(block.d)),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/q2_0"),
};

fn chunks(block: &BlockQ2_0) -> [Chunk; 2] {
    std::array::from_fn(|part| {
        let code = |i: usize| block.qs[8 * part + i / 4] >> (i % 4 * 2) & 3;
        Chunk::new(f16_value(block.d), std::array::from_fn(|i| code(i) as i8 - 1))
    })
}
