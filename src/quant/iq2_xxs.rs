//! IQ2_XXS: 256 weights on a grid of 256 points, in eight sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: a sub-block has 8 bytes of `qs`, four grid indices and a little-endian u32 with four
/// times seven signs and a four-bit scale `s`; its elements are `d * (0.5 + s) / 4` times the grid's.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq2Xxs {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Indices, signs and scales.
    qs: [[u8; 8]; 8],
}

const _: () = assert!(size_of::<BlockIq2Xxs>() == 66);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ2_XXS,
    name: "iq2_xxs",
    ggml_id: Some(16),
    block_len: 256,
    block_bytes: size_of::<BlockIq2Xxs>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq2Xxs| f16_is_finite(block.d)),
    quantize: None,
    table: &grids::IQ2_XXS,
    planes: &[],
    wgsl: wgsl!("quant/iq2_xxs"),
};

fn chunks(block: &BlockIq2Xxs) -> [Chunk; 8] {
    let d = f16_value(block.d);
    block.qs.map(|[index0, index1, index2, index3, rest @ ..]| {
        let (indices, rest) = ([index0, index1, index2, index3], u32::from_le_bytes(rest));
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.25;
        let codes = grids::codes(|part| {
            let entry = grids::IQ2_XXS[usize::from(indices[part])];
            grids::iq2_eight(entry, grids::eighth_sign(rest >> (7 * part)))
        });
        Chunk::new(scale, codes)
    })
}
