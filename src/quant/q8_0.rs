//! Q8_0: 32 signed bytes with one scale. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, search,
    search::each_block,
};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * qs[i]`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ8_0 {
    /// Scale, f16.
    d: [u8; 2],
    /// Quants.
    qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q8_0,
    name: "q8_0",
    ggml_id: Some(8),
    block_len: 32,
    block_bytes: size_of::<BlockQ8_0>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ8_0| f16_is_finite(block.d)),
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 2), (2, 32)],
    wgsl: wgsl!("quant/q8_0"),
};

fn dequant(block: &BlockQ8_0, out: &mut [f32; 32]) {
    let d = f16_value(block.d);
    for (out, q) in out.iter_mut().zip(block.qs) {
        *out = d * f32::from(q);
    }
}

fn chunks(block: &BlockQ8_0) -> [Chunk; 1] {
    [Chunk::new(f16_value(block.d), block.qs)]
}

/// As ggml's `quantize_row_q8_0_ref`; the importance of columns has no say.
fn quantize(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, None, out, |x: &[f32; 32], _| {
        let d = search::extreme(x).1 / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        BlockQ8_0 { d: search::half(d).0, qs: x.map(|x| (x * inverse).round() as i8) }
    });
}
