//! IQ4_NL: 32 weights of 4 bits that index a table of unevenly spaced values, with one scale. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, nibbles,
    search, search::each_block,
};
use crate::tensor::DType;

/// What the codes of IQ4_NL and IQ4_XS stand for.
pub(super) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights: element `i` is `d * VALUES[q]`, nibbles in the order of Q4_0.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq4Nl {
    /// Scale, f16.
    d: [u8; 2],
    /// Codes.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ4_NL,
    name: "iq4_nl",
    ggml_id: Some(20),
    block_len: 32,
    block_bytes: size_of::<BlockIq4Nl>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq4Nl| f16_is_finite(block.d)),
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 2), (2, 16)],
    wgsl: wgsl!("quant/iq4_nl"),
};

fn chunks(block: &BlockIq4Nl) -> [Chunk; 1] {
    let codes = nibbles(&block.qs).map(|code| VALUES[code as usize]);
    [Chunk::new(f16_value(block.d), codes)]
}

/// The index of the table's value nearest to `x`.
fn best_index(x: f32) -> u8 {
    let above = VALUES.partition_point(|value| f32::from(*value) <= x);
    match above {
        0 => 0,
        16 => 15,
        _ if x - f32::from(VALUES[above - 1]) < f32::from(VALUES[above]) - x => above as u8 - 1,
        _ => above as u8,
    }
}

/// The scale that fits 32 weights best.
fn scale(x: &[f32; 32], weights: &[f32; 32]) -> f32 {
    let (extreme, magnitude) = search::extreme(x);
    if magnitude < search::NOTHING {
        return 0.0;
    }
    let lowest = f32::from(VALUES[0]);
    let sums = |inverse: f32| {
        let (mut product, mut square) = (0.0f32, 0.0f32);
        for (x, w) in x.iter().zip(weights) {
            let q = f32::from(VALUES[usize::from(best_index(inverse * x))]);
            product += w * q * x;
            square += w * q * q;
        }
        (product, square)
    };
    let (product, square) = sums(1.0 / (-extreme / lowest));
    let mut d = if square > 0.0 { product / square } else { 0.0 };
    let mut best = d * product;
    for step in -7..=7 {
        let (product, square) = sums((step as f32 + lowest) / extreme);
        if square > 0.0 && product * product > best * square {
            d = product / square;
            best = d * product;
        }
    }
    d
}

/// As ggml's `quantize_iq4_nl`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, importance, out, |x: &[f32; 32], importance| {
        let sigma2 = search::square_sum(x) * (2.0 / 32.0);
        let weights = importance.map(|importance| search::weights(importance, sigma2, x));
        let d = scale(x, &weights.unwrap_or(x.map(|x| x * x)));
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        BlockIq4Nl { d: search::half(d).0, qs: search::pack_nibbles(&x.map(|x| best_index(inverse * x))) }
    });
}
