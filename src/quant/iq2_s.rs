//! IQ2_S: 256 weights on a grid of 1024 points, in sixteen sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: eight elements have a ten-bit grid index (low eight bits in `qs`, high two of a
/// sub-block's four in a byte of `qh`) and a byte of signs; scales as in IQ2_XS.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq2S {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Low bits of the indices.
    qs: [u8; 32],
    /// Signs.
    signs: [u8; 32],
    /// High bits of the indices.
    qh: [u8; 8],
    /// Scales, two a byte.
    scales: [u8; 8],
}

const _: () = assert!(size_of::<BlockIq2S>() == 82);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ2_S,
    name: "iq2_s",
    ggml_id: Some(22),
    block_len: 256,
    block_bytes: size_of::<BlockIq2S>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesHalves,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq2S| f16_is_finite(block.d)),
    quantize: None,
    table: &grids::IQ2_S,
    planes: &[],
    wgsl: wgsl!("quant/iq2_s"),
};

fn chunks(block: &BlockIq2S) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|j| {
        let scales = [0, 4].map(|shift| d * (0.5 + f32::from(block.scales[j] >> shift & 15)) * 0.25);
        let codes = grids::codes(|part| {
            let (low, high) = (block.qs[4 * j + part], block.qh[j] >> (2 * part) & 3);
            let entry = grids::IQ2_S[usize::from(low) | usize::from(high) << 8];
            grids::iq2_eight(entry, block.signs[4 * j + part])
        });
        Chunk::halves(scales, codes)
    })
}
