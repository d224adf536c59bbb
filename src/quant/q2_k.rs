//! Q2_K: 256 weights of 2 bits in sixteen sub-blocks with four-bit scales and minima. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 256 weights in 16 sub-blocks of 16: an element of sub-block `j` is `d * (scales[j] & 15) * q - dmin * (scales[j] >> 4)`.
/// The block has two halves of 128, each four runs of 32: run `r` of a half is bits `2r, 2r + 1` of the half's 32
/// bytes of `qs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ2K {
    /// Scale and minimum of each 16 weights, four bits each.
    scales: [u8; 16],
    /// Quants.
    qs: [u8; 64],
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// Scale of the minima, f16.
    dmin: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ2K>() == 84);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q2_K,
    name: "q2_k",
    ggml_id: Some(10),
    block_len: 256,
    block_bytes: size_of::<BlockQ2K>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::NibbleHalves,
    non_finite: |bytes| {
        first_block(bytes, |block: &BlockQ2K| f16_is_finite(block.d) && f16_is_finite(block.dmin))
    },
    table: &[],
    wgsl: include_str!("../../shaders/quant/q2_k.wgsl"),
};

fn chunks(block: &BlockQ2K) -> [Chunk; 8] {
    let (d, dmin) = (f16_value(block.d), f16_value(block.dmin));
    std::array::from_fn(|part| {
        let group = &block.qs[part / 4 * 32..][..32];
        let codes = std::array::from_fn(|i| (group[i] >> (part % 4 * 2) & 3) as i8);
        let pair = [block.scales[2 * part], block.scales[2 * part + 1]];
        Chunk {
            scales: pair.map(|both| d * f32::from(both & 15)),
            offsets: pair.map(|both| -(dmin * f32::from(both >> 4))),
            codes,
        }
    })
}
