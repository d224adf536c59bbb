//! NVFP4: 64 weights of 4 bits, floats themselves, with an 8-bit float as scale of each 16. Knows only its own layout.

use super::{Chunk, Format, Packing, decode_chunks, each_chunk, first_block, mxfp4};
use crate::tensor::DType;

/// 64 weights in 4 sub-blocks of 16: an element of sub-block `j` is half the value of `d[j]` times MXFP4's value of its
/// code. Sub-block `j` has 8 bytes of `qs`, low nibbles first. (Files may bring one more scale for the whole tensor; the
/// model applies it to the product.)
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockNvfp4 {
    /// Scales: unsigned E4M3, 0x7f is zero as ggml has it.
    d: [u8; 4],
    /// Codes.
    qs: [u8; 32],
}

const _: () = assert!(size_of::<BlockNvfp4>() == 36);

pub(super) const FORMAT: Format = Format {
    dtype: DType::NVFP4,
    name: "nvfp4",
    ggml_id: Some(40),
    block_len: 64,
    block_bytes: size_of::<BlockNvfp4>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesHalves,
    // An unsigned number has no sign bit; with it, the largest is the NaN of E4M3.
    non_finite: |bytes| first_block(bytes, |block: &BlockNvfp4| !block.d.contains(&0xff)),
    quantize: None,
    table: &[],
    planes: &[(0, 4), (4, 32)],
    wgsl: wgsl!("quant/nvfp4"),
};

/// Half the value of an unsigned E4M3 number: exponent bias 7.
fn scale(d: u8) -> f32 {
    let (exponent, fraction) = (d >> 3 & 15, f32::from(d & 7));
    match (d, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => fraction / 1024.0,
        _ => (1.0 + fraction / 8.0) * f32::from_bits(u32::from(exponent + 127 - 8) << 23),
    }
}

fn chunks(block: &BlockNvfp4) -> [Chunk; 2] {
    std::array::from_fn(|part| {
        let qs = &block.qs[16 * part..][..16];
        let code = |i: usize| qs[i / 16 * 8 + i % 8] >> (i / 8 % 2 * 4) & 15;
        let codes = std::array::from_fn(|i| mxfp4::VALUES[usize::from(code(i))]);
        Chunk::halves([scale(block.d[2 * part]), scale(block.d[2 * part + 1])], codes)
    })
}
