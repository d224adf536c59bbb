//! Unquantised weights: F32, F16 and BF16, "blocks" of one element. Knows nothing but the three number formats.

use super::{Format, decode, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// IEEE single precision, little-endian.
pub(super) const F32: Format = Format {
    dtype: DType::F32,
    name: "f32",
    ggml_id: 0,
    block_len: 1,
    block_bytes: 4,
    dequant: |bytes, out| {
        decode(bytes, out, |x: &[u8; 4], [out]: &mut [f32; 1]| *out = f32::from_le_bytes(*x))
    },
    non_finite: |bytes| first_block(bytes, |x: &[u8; 4]| f32::from_le_bytes(*x).is_finite()),
    wgsl: include_str!("../../shaders/quant/f32.wgsl"),
};

/// IEEE half precision, little-endian.
pub(super) const F16: Format = Format {
    dtype: DType::F16,
    name: "f16",
    ggml_id: 1,
    block_len: 1,
    block_bytes: 2,
    dequant: |bytes, out| decode(bytes, out, |x: &[u8; 2], [out]: &mut [f32; 1]| *out = f16_value(*x)),
    non_finite: |bytes| first_block(bytes, |x: &[u8; 2]| f16_is_finite(*x)),
    wgsl: include_str!("../../shaders/quant/f16.wgsl"),
};

/// The upper half of a single precision number, little-endian.
pub(super) const BF16: Format = Format {
    dtype: DType::BF16,
    name: "bf16",
    ggml_id: 30,
    block_len: 1,
    block_bytes: 2,
    dequant: |bytes, out| decode(bytes, out, |x: &[u8; 2], [out]: &mut [f32; 1]| *out = bf16_value(*x)),
    non_finite: |bytes| first_block(bytes, |x: &[u8; 2]| bf16_value(*x).is_finite()),
    wgsl: include_str!("../../shaders/quant/bf16.wgsl"),
};

fn bf16_value(bytes: [u8; 2]) -> f32 {
    f32::from_le_bytes([0, 0, bytes[0], bytes[1]])
}
