//! A8: 32 weights of 8 bits with a scale and a zero point, what 8-bit GPTQ tensors become. In no file as such.

use super::{Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * (qs[i] - zero)` with the zero point `z + carry % 2`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockA8 {
    /// Scale, f16.
    pub d: [u8; 2],
    /// Zero point, as far as a byte reaches: GPTQ has zero points up to 256.
    pub z: u8,
    /// Its lowest bit is added to the zero point.
    pub carry: u8,
    /// Quants.
    pub qs: [u8; 32],
}

const _: () = assert!(size_of::<BlockA8>() == 36);

pub(super) const FORMAT: Format = Format {
    dtype: DType::A8,
    name: "a8",
    ggml_id: None,
    block_len: 32,
    block_bytes: size_of::<BlockA8>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesOffset,
    non_finite: |bytes| first_block(bytes, |block: &BlockA8| f16_is_finite(block.d)),
    table: &[],
    planes: &[(0, 4), (4, 32)],
    quantize: None,
    wgsl: wgsl!("quant/a8"),
};

fn zero(block: &BlockA8) -> f32 {
    f32::from(block.z) + f32::from(block.carry % 2)
}

fn dequant(block: &BlockA8, out: &mut [f32; 32]) {
    let (d, zero) = (f16_value(block.d), zero(block));
    for (out, q) in out.iter_mut().zip(block.qs) {
        *out = d * (f32::from(q) - zero);
    }
}

/// Products and their sum are exact: a half float has 11 bits, codes and zero points have 9.
fn chunks(block: &BlockA8) -> [Chunk; 1] {
    let d = f16_value(block.d);
    let codes = block.qs.map(|q| (q ^ 0x80) as i8);
    [Chunk { offsets: [d * (128.0 - zero(block)); 2], ..Chunk::new(d, codes) }]
}
