//! TQ1_0: 256 ternary weights, five in a byte, with one scale. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 256 weights: `d * (trit - 1)`. Trit `n` of a byte is the integer part of `3 * frac(3^n * byte / 256)`. The first 160
/// weights are trits 0..5 of `qs[..32]`, 32 at a time; the next 80 those of `qs[32..]`, 16 at a time; the last 16 are
/// trits 0..4 of `qh`, 4 at a time.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockTq1_0 {
    /// Five trits a byte.
    qs: [u8; 48],
    /// Four trits a byte.
    qh: [u8; 4],
    /// Scale, f16.
    d: [u8; 2],
}

const _: () = assert!(size_of::<BlockTq1_0>() == 54);

pub(super) const FORMAT: Format = Format {
    dtype: DType::TQ1_0,
    name: "tq1_0",
    ggml_id: Some(34),
    block_len: 256,
    block_bytes: size_of::<BlockTq1_0>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbles,
    non_finite: |bytes| first_block(bytes, |block: &BlockTq1_0| f16_is_finite(block.d)),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/tq1_0"),
};

/// Trit `n` of `byte`, minus one.
fn trit(byte: u8, n: usize) -> i8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as i8 - 1
}

fn chunks(block: &BlockTq1_0) -> [Chunk; 8] {
    std::array::from_fn(|part| {
        let codes = std::array::from_fn(|i| match 32 * part + i {
            at @ 0..160 => trit(block.qs[at % 32], at / 32),
            at @ 160..240 => trit(block.qs[32 + at % 16], (at - 160) / 16),
            at => trit(block.qh[at % 4], (at - 240) / 4),
        });
        Chunk::new(f16_value(block.d), codes)
    })
}
