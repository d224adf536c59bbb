//! IQ1_S: 256 weights on a grid of 2048 points, in eight sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: a sub-block has a little-endian u16 in `qh`, with three more bits for each of its
/// four grid indices, a three-bit scale `s` and the sign of the shift; its elements are `d * (2 s + 1)` times the grid's
/// plus or minus an eighth.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq1S {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Low bits of the indices.
    qs: [u8; 32],
    /// High bits of the indices, scales, shifts.
    qh: [[u8; 2]; 8],
}

const _: () = assert!(size_of::<BlockIq1S>() == 50);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ1_S,
    name: "iq1_s",
    ggml_id: Some(19),
    block_len: 256,
    block_bytes: size_of::<BlockIq1S>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq1S| f16_is_finite(block.d)),
    quantize: None,
    table: &grids::IQ1,
    planes: &[],
    wgsl: wgsl!("quant/iq1_s"),
};

fn chunks(block: &BlockIq1S) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|j| {
        let qh = u16::from_le_bytes(block.qh[j]);
        // Dividing by 8 is exact; the codes are 8 times the elements.
        let scale = d * f32::from(2 * (qh >> 12 & 7) + 1) / 8.0;
        let codes = grids::codes(|part| {
            let index = u16::from(block.qs[4 * j + part]) | (qh >> (3 * part) & 7) << 8;
            grids::iq1_eight(grids::IQ1[usize::from(index)], qh & 0x8000 != 0)
        });
        Chunk::new(scale, codes)
    })
}
