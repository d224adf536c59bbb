//! A4: 32 weights of up to 4 bits with a scale and a zero point, what AWQ and GPTQ tensors become. In no file as such.

use super::{Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, nibbles};
use crate::tensor::DType;

/// 32 weights: element `i` is `d * (q - z)`, nibbles in the order of Q4_0.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockA4 {
    /// Scale, f16.
    pub d: [u8; 2],
    /// Zero point.
    pub z: u8,
    /// Not used.
    pub pad: u8,
    /// Quants.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockA4>() == 20);

pub(super) const FORMAT: Format = Format {
    dtype: DType::A4,
    name: "a4",
    ggml_id: None,
    block_len: 32,
    block_bytes: size_of::<BlockA4>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Nibbles,
    non_finite: |bytes| first_block(bytes, |block: &BlockA4| f16_is_finite(block.d)),
    table: &[],
    planes: &[(0, 4), (4, 16)],
    quantize: None,
    wgsl: wgsl!("quant/a4"),
};

fn dequant(block: &BlockA4, out: &mut [f32; 32]) {
    let (d, z) = (f16_value(block.d), f32::from(block.z));
    for (out, q) in out.iter_mut().zip(nibbles(&block.qs)) {
        *out = d * (f32::from(q) - z);
    }
}

/// Products and their sum are exact: a half float has 11 bits, codes and zero points have 8.
fn chunks(block: &BlockA4) -> [Chunk; 1] {
    let d = f16_value(block.d);
    [Chunk { offsets: [-(d * f32::from(block.z)); 2], ..Chunk::new(d, nibbles(&block.qs)) }]
}
