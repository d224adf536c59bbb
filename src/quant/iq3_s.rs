//! IQ3_S: 256 weights on a grid of 512 points, in eight sub-blocks. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, grids,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: four elements have a nine-bit grid index (low eight bits in `qs`, the ninth of a
/// sub-block's eight in a byte of `qh`), eight have a byte of signs; a sub-block has a four-bit scale `s`, its elements
/// are `d * (1 + 2 s)` times the grid's.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq3S {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Low bits of the indices.
    qs: [[u8; 8]; 8],
    /// Ninth bits of the indices.
    qh: [u8; 8],
    /// Signs.
    signs: [[u8; 4]; 8],
    /// Scales, two a byte.
    scales: [u8; 4],
}

const _: () = assert!(size_of::<BlockIq3S>() == 110);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ3_S,
    name: "iq3_s",
    ggml_id: Some(21),
    block_len: 256,
    block_bytes: size_of::<BlockIq3S>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq3S| f16_is_finite(block.d)),
    quantize: None,
    table: &grids::IQ3_S,
    planes: &[],
    wgsl: wgsl!("quant/iq3_s"),
};

fn chunks(block: &BlockIq3S) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|j| {
        let scale = d * f32::from(1 + 2 * (block.scales[j / 2] >> (j % 2 * 4) & 15));
        let codes = grids::codes(|part| {
            let entries = [2 * part, 2 * part + 1].map(|i| {
                let ninth = usize::from(block.qh[j] >> i & 1);
                grids::IQ3_S[usize::from(block.qs[j][i]) | ninth << 8]
            });
            grids::iq3_s_eight(entries, block.signs[j][part])
        });
        Chunk::new(scale, codes)
    })
}
