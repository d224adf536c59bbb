//! IQ4_XS: 256 weights that index IQ4_NL's table, in eight sub-blocks with six-bit scales. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, iq4_nl, nibbles,
};
use crate::tensor::DType;

/// 256 weights in 8 sub-blocks of 32: an element of sub-block `j` is `d * (scale[j] - 32) * VALUES[q]`, nibbles in the
/// order of Q4_0 within each 16 bytes.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockIq4Xs {
    /// Scale of the scales, f16.
    d: [u8; 2],
    /// High two bits of the scales, a little-endian u16: bits `2j, 2j + 1` are sub-block `j`'s.
    scales_h: [u8; 2],
    /// Low four bits of the scales, two a byte.
    scales_l: [u8; 4],
    /// Codes.
    qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIq4Xs>() == 136);

pub(super) const FORMAT: Format = Format {
    dtype: DType::IQ4_XS,
    name: "iq4_xs",
    ggml_id: Some(23),
    block_len: 256,
    block_bytes: size_of::<BlockIq4Xs>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::Bytes,
    non_finite: |bytes| first_block(bytes, |block: &BlockIq4Xs| f16_is_finite(block.d)),
    quantize: None,
    table: &[],
    planes: &[(0, 8), (8, 128)],
    wgsl: wgsl!("quant/iq4_xs"),
};

fn chunks(block: &BlockIq4Xs) -> [Chunk; 8] {
    let (d, high) = (f16_value(block.d), u16::from_le_bytes(block.scales_h));
    std::array::from_fn(|j| {
        let low = block.scales_l[j / 2] >> (j % 2 * 4) & 15;
        let scale = f32::from(u16::from(low) | (high >> (2 * j) & 3) << 4) - 32.0;
        let codes = nibbles(&block.qs[16 * j..]).map(|code| iq4_nl::VALUES[code as usize]);
        Chunk::new(d * scale, codes)
    })
}
