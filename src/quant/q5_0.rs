//! Q5_0: 32 weights of 5 bits with one scale. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, nibbles_and_bit,
    search, search::each_block,
};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * (q - 16)`; the low four bits of `q` are a nibble of `qs` as in Q4_0, the fifth is
/// bit `i` of `qh`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ5_0 {
    /// Scale, f16.
    d: [u8; 2],
    /// Fifth bits, a little-endian u32: bit `i` belongs to element `i`.
    qh: [u8; 4],
    /// Low four bits.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q5_0,
    name: "q5_0",
    ggml_id: Some(6),
    block_len: 32,
    block_bytes: size_of::<BlockQ5_0>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ5_0| f16_is_finite(block.d)),
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 2), (2, 4), (6, 16)],
    wgsl: wgsl!("quant/q5_0"),
};

fn dequant(block: &BlockQ5_0, out: &mut [f32; 32]) {
    let d = f16_value(block.d);
    quants(block.qh, &block.qs, out, |q| d * (q - 16.0));
}

/// Calls `value` with the 32 five-bit quants of a block; Q5_1 packs its own alike.
pub(super) fn quants(qh: [u8; 4], qs: &[u8; 16], out: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let high = u32::from_le_bytes(qh);
    for (i, byte) in qs.iter().enumerate() {
        let low = byte & 15 | ((high >> i & 1) << 4) as u8;
        let upper = byte >> 4 | ((high >> (i + 16) & 1) << 4) as u8;
        out[i] = value(f32::from(low));
        out[i + 16] = value(f32::from(upper));
    }
}

fn chunks(block: &BlockQ5_0) -> [Chunk; 1] {
    let codes = nibbles_and_bit(&block.qs, block.qh).map(|code| code - 16);
    [Chunk::new(f16_value(block.d), codes)]
}

/// As ggml's `quantize_q5_0`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let sigma2 = search::square_sum(row) / row.len() as f32;
    each_block(row, importance, out, |x: &[f32; 32], importance| {
        let (d, codes) = match importance {
            Some(importance) => search::symmetric(16, x, Some(&search::weights(importance, sigma2, x))),
            None => {
                let d = search::extreme(x).0 / -16.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                (d, x.map(|x| ((x * inverse + 16.5) as u8).min(31)))
            }
        };
        BlockQ5_0 {
            d: search::half(d).0,
            qh: search::pack_fifth_bits(&codes),
            qs: search::pack_nibbles(&codes),
        }
    });
}
