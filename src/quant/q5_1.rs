//! Q5_1: 32 weights of 5 bits with a scale and a minimum. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, nibbles_and_bit, q5_0,
    search, search::each_block,
};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * q + m`; the low four bits of `q` are a nibble of `qs` as in Q4_0, the fifth is
/// bit `i` of `qh`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ5_1 {
    /// Scale, f16.
    d: [u8; 2],
    /// Minimum, f16.
    m: [u8; 2],
    /// Fifth bits, a little-endian u32: bit `i` belongs to element `i`.
    qh: [u8; 4],
    /// Low four bits.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == 24);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q5_1,
    name: "q5_1",
    ggml_id: Some(7),
    block_len: 32,
    block_bytes: size_of::<BlockQ5_1>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesOffset,
    non_finite: |bytes| {
        first_block(bytes, |block: &BlockQ5_1| f16_is_finite(block.d) && f16_is_finite(block.m))
    },
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 4), (4, 4), (8, 16)],
    wgsl: wgsl!("quant/q5_1"),
};

fn dequant(block: &BlockQ5_1, out: &mut [f32; 32]) {
    let (d, m) = (f16_value(block.d), f16_value(block.m));
    q5_0::quants(block.qh, &block.qs, out, |q| d * q + m);
}

fn chunks(block: &BlockQ5_1) -> [Chunk; 1] {
    let codes = nibbles_and_bit(&block.qs, block.qh);
    [Chunk { offsets: [f16_value(block.m); 2], ..Chunk::new(f16_value(block.d), codes) }]
}

/// As ggml's `quantize_q5_1`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let sigma2 = search::square_sum(row) / row.len() as f32;
    each_block(row, importance, out, |x: &[f32; 32], importance| {
        let (d, minimum, codes) = search::block_affine(31, x, importance, sigma2);
        BlockQ5_1 {
            d: search::half(d).0,
            m: search::half(-minimum).0,
            qh: search::pack_fifth_bits(&codes),
            qs: search::pack_nibbles(&codes),
        }
    });
}
