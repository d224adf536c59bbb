//! IQ1_M: 256 weights on a grid of 2048 points, in sixteen sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 16 sub-blocks of 16: eight elements have a nibble of `qh`, three more bits of their grid index and the
/// sign of their shift; the four little-endian u16 of `scales` hold four times four three-bit scales `s`, and in their top
/// nibbles an f16 `d`, lowest first. Elements are `d * (2 s + 1)` times the grid's plus or minus an eighth.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq1M {
    /// Low bits of the indices.
    qs: [u8; 32],
    /// High bits of the indices, shifts.
    qh: [u8; 16],
    /// Scales, and the scale of the scales.
    scales: [[u8; 2]; 4],
}

const _: () = assert!(size_of::<BlockIq1M>() == 56);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ1_M,
    name: "iq1_m",
    ggml_id: Some(29),
    block_len: 256,
    block_bytes: size_of::<BlockIq1M>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesHalves,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq1M| f16_is_finite(d(block))),
    quantize: None,
    table: &grids::IQ1,
    planes: &[],
    wgsl: wgsl!("quant/iq1_m"),
};

/// The scale of the scales.
fn d(block: &BlockIq1M) -> [u8; 2] {
    let [a, b, c, d] = block.scales.map(|scales| scales[1] >> 4);
    [a | b << 4, c | d << 4]
}

fn chunks(block: &BlockIq1M) -> [Chunk; 8] {
    let d = f16_value(d(block));
    std::array::from_fn(|j| {
        let packed = u16::from_le_bytes(block.scales[j / 2]) >> (j % 2 * 6);
        // Dividing by 8 is exact; the codes are 8 times the elements.
        let scales = [0, 3].map(|shift| d * f32::from(2 * (packed >> shift & 7) + 1) / 8.0);
        let codes = grids::codes(|part| {
            let high = block.qh[2 * j + part / 2] >> (part % 2 * 4) & 15;
            let index = u16::from(block.qs[4 * j + part]) | u16::from(high & 7) << 8;
            grids::iq1_eight(grids::IQ1[usize::from(index)], high & 8 != 0)
        });
        Chunk::halves(scales, codes)
    })
}
