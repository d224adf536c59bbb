//! MXFP4: 32 weights of 4 bits, floats themselves, with a power of two as scale. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, first_block, nibbles, search, search::each_block,
};
use crate::tensor::DType;

/// Twice the values of the 4-bit floats (E2M1), sign in the highest bit. NVFP4 has the same.
pub(super) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 weights: element `i` is `2^(e - 128) * VALUES[q]`, nibbles in the order of Q4_0.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockMxfp4 {
    /// Exponent of the scale, E8M0; 255 is NaN.
    e: u8,
    /// Codes.
    qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockMxfp4>() == 17);

pub(super) const FORMAT: Format = Format {
    dtype: DType::MXFP4,
    name: "mxfp4",
    ggml_id: Some(39),
    block_len: 32,
    block_bytes: size_of::<BlockMxfp4>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockMxfp4| block.e != 255),
    quantize: Some(quantize),
    table: &[],
    planes: &[(0, 1), (1, 16)],
    wgsl: wgsl!("quant/mxfp4"),
};

/// `2^(e - 128)`, by its bits: subnormal for the two smallest exponents.
pub(super) fn scale(e: u8) -> f32 {
    match e {
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        _ => f32::from_bits(u32::from(e - 1) << 23),
    }
}

fn chunks(block: &BlockMxfp4) -> [Chunk; 1] {
    [Chunk::new(scale(block.e), nibbles(&block.qs).map(|code| VALUES[code as usize]))]
}

/// As ggml's `quantize_row_mxfp4_ref`; the importance of columns has no say.
fn quantize(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, None, out, |x: &[f32; 32], _| {
        let largest = search::extreme(x).1;
        let e = if largest > 0.0 { (largest.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
        let d = scale(e);
        let best = |x: f32| {
            let error = |index: usize| (f32::from(VALUES[index]) * d - x).abs();
            (1..16).fold(0, |best, index| if error(index) < error(best) { index } else { best }) as u8
        };
        BlockMxfp4 { e, qs: search::pack_nibbles(&x.map(best)) }
    });
}
