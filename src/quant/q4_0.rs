//! Q4_0: 32 weights of 4 bits with one scale. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, nibbles, search,
    search::each_block,
};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * (q - 8)`, where `q` is the low nibble of `qs[i]` for `i < 16` and the high nibble
/// of `qs[i - 16]` for the rest.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ4_0 {
    /// Scale, f16.
    d: [u8; 2],
    /// Quants.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q4_0,
    name: "q4_0",
    ggml_id: Some(2),
    block_len: 32,
    block_bytes: size_of::<BlockQ4_0>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbles,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ4_0| f16_is_finite(block.d)),
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 2), (2, 16)],
    wgsl: wgsl!("quant/q4_0"),
};

fn dequant(block: &BlockQ4_0, out: &mut [f32; 32]) {
    let d = f16_value(block.d);
    for (i, byte) in block.qs.iter().enumerate() {
        out[i] = d * (f32::from(byte & 15) - 8.0);
        out[i + 16] = d * (f32::from(byte >> 4) - 8.0);
    }
}

fn chunks(block: &BlockQ4_0) -> [Chunk; 1] {
    let codes = nibbles(&block.qs).map(|code| code - 8);
    [Chunk::new(f16_value(block.d), codes)]
}

/// As ggml's `quantize_q4_0`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let sigma2 = search::square_sum(row) / row.len() as f32;
    each_block(row, importance, out, |x: &[f32; 32], importance| {
        let (d, codes) = match importance {
            Some(importance) => search::symmetric(8, x, Some(&search::weights(importance, sigma2, x))),
            None => {
                let d = search::extreme(x).0 / -8.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                (d, x.map(|x| ((x * inverse + 8.5) as u8).min(15)))
            }
        };
        BlockQ4_0 { d: search::half(d).0, qs: search::pack_nibbles(&codes) }
    });
}
