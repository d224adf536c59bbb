//! Q4_1: 32 weights of 4 bits with a scale and a minimum. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, nibbles, search,
    search::each_block,
};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * q + m`, where `q` is the low nibble of `qs[i]` for `i < 16` and the high nibble
/// of `qs[i - 16]` for the rest.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ4_1 {
    /// Scale, f16.
    d: [u8; 2],
    /// Minimum, f16.
    m: [u8; 2],
    /// Quants.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q4_1,
    name: "q4_1",
    ggml_id: Some(3),
    block_len: 32,
    block_bytes: size_of::<BlockQ4_1>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Nibbles,
    non_finite: |bytes| {
        first_block(bytes, |block: &BlockQ4_1| f16_is_finite(block.d) && f16_is_finite(block.m))
    },
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 4), (4, 16)],
    wgsl: wgsl!("quant/q4_1"),
};

fn dequant(block: &BlockQ4_1, out: &mut [f32; 32]) {
    let (d, m) = (f16_value(block.d), f16_value(block.m));
    for (i, byte) in block.qs.iter().enumerate() {
        out[i] = d * f32::from(byte & 15) + m;
        out[i + 16] = d * f32::from(byte >> 4) + m;
    }
}

fn chunks(block: &BlockQ4_1) -> [Chunk; 1] {
    let offsets = [f16_value(block.m); 2];
    [Chunk { offsets, ..Chunk::new(f16_value(block.d), nibbles(&block.qs)) }]
}

/// As ggml's `quantize_q4_1`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let sigma2 = search::square_sum(row) / row.len() as f32;
    each_block(row, importance, out, |x: &[f32; 32], importance| {
        let (d, minimum, codes) = search::block_affine(15, x, importance, sigma2);
        BlockQ4_1 { d: search::half(d).0, m: search::half(-minimum).0, qs: search::pack_nibbles(&codes) }
    });
}
