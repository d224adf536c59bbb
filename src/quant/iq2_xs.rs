//! IQ2_XS: 256 weights on a grid of 512 points, in sixteen sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: each little-endian u16 of `qs` is a nine-bit grid index and seven signs of eight
/// elements; each half of a sub-block has a four-bit scale `s`, its elements are `d * (0.5 + s) / 4` times the grid's.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq2Xs {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Indices and signs.
    qs: [[u8; 2]; 32],
    /// Scales, two a byte.
    scales: [u8; 8],
}

const _: () = assert!(size_of::<BlockIq2Xs>() == 74);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ2_XS,
    name: "iq2_xs",
    ggml_id: Some(17),
    block_len: 256,
    block_bytes: size_of::<BlockIq2Xs>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesHalves,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq2Xs| f16_is_finite(block.d)),
    quantize: None,
    table: &grids::IQ2_XS,
    planes: &[],
    wgsl: wgsl!("quant/iq2_xs"),
};

fn chunks(block: &BlockIq2Xs) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|j| {
        let scales = [0, 4].map(|shift| d * (0.5 + f32::from(block.scales[j] >> shift & 15)) * 0.25);
        let codes = grids::codes(|part| {
            let both = u16::from_le_bytes(block.qs[4 * j + part]);
            let entry = grids::IQ2_XS[usize::from(both & 511)];
            grids::iq2_eight(entry, grids::eighth_sign(u32::from(both >> 9)))
        });
        Chunk::halves(scales, codes)
    })
}
