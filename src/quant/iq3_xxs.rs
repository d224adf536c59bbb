//! IQ3_XXS: 256 weights on a grid of 256 points, in eight sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: a sub-block has eight grid indices of four elements each, and a little-endian u32
/// with four times seven signs and a four-bit scale `s`; its elements are `d * (0.5 + s) / 2` times the grid's.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq3Xxs {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Indices.
    qs: [[u8; 8]; 8],
    /// Scales and signs.
    scales_and_signs: [[u8; 4]; 8],
}

const _: () = assert!(size_of::<BlockIq3Xxs>() == 98);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ3_XXS,
    name: "iq3_xxs",
    ggml_id: Some(18),
    block_len: 256,
    block_bytes: size_of::<BlockIq3Xxs>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq3Xxs| f16_is_finite(block.d)),
    quantize: None,
    table: &grids::IQ3_XXS,
    planes: &[],
    wgsl: wgsl!("quant/iq3_xxs"),
};

fn chunks(block: &BlockIq3Xxs) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|j| {
        let rest = u32::from_le_bytes(block.scales_and_signs[j]);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        let codes = grids::codes(|part| {
            let pair = [block.qs[j][2 * part], block.qs[j][2 * part + 1]];
            let entries = pair.map(|index| grids::IQ3_XXS[usize::from(index)]);
            grids::iq3_xxs_eight(entries, grids::eighth_sign(rest >> (7 * part)))
        });
        Chunk::new(scale, codes)
    })
}
