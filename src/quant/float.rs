//! Unquantised weights: F64, F32, F16, BF16 and the two 8-bit floats, "blocks" of one element. Knows nothing but these
//! number formats.

use super::{Format, Packing, decode, f16_is_finite, f16_value, first_block};
use crate::tensor::DType;

/// IEEE single precision, little-endian.
pub(super) const F32: Format = Format {
    dtype: DType::F32,
    name: "f32",
    ggml_id: Some(0),
    block_len: 1,
    block_bytes: 4,
    dequant: |bytes, out| {
        decode(bytes, out, |x: &[u8; 4], [out]: &mut [f32; 1]| *out = f32::from_le_bytes(*x))
    },
    chunks: |_, _| {},
    packing: Packing::Float,
    non_finite: |bytes| first_block(bytes, |x: &[u8; 4]| f32::from_le_bytes(*x).is_finite()),
    quantize: Some(|row, _, out| each_float(row, out, f32::to_le_bytes)),
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/f32"),
};

/// IEEE half precision, little-endian.
pub(super) const F16: Format = Format {
    dtype: DType::F16,
    name: "f16",
    ggml_id: Some(1),
    block_len: 1,
    block_bytes: 2,
    dequant: |bytes, out| decode(bytes, out, |x: &[u8; 2], [out]: &mut [f32; 1]| *out = f16_value(*x)),
    chunks: |_, _| {},
    packing: Packing::Float,
    non_finite: |bytes| first_block(bytes, |x: &[u8; 2]| f16_is_finite(*x)),
    quantize: Some(|row, _, out| each_float(row, out, |x| half::f16::from_f32(x).to_le_bytes())),
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/f16"),
};

/// The upper half of a single precision number, little-endian.
pub(super) const BF16: Format = Format {
    dtype: DType::BF16,
    name: "bf16",
    ggml_id: Some(30),
    block_len: 1,
    block_bytes: 2,
    dequant: |bytes, out| decode(bytes, out, |x: &[u8; 2], [out]: &mut [f32; 1]| *out = bf16_value(*x)),
    chunks: |_, _| {},
    packing: Packing::Float,
    non_finite: |bytes| first_block(bytes, |x: &[u8; 2]| bf16_value(*x).is_finite()),
    quantize: Some(|row, _, out| each_float(row, out, |x| half::bf16::from_f32(x).to_le_bytes())),
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/bf16"),
};

/// IEEE double precision, little-endian, rounded to single.
pub(super) const F64: Format = Format {
    dtype: DType::F64,
    name: "f64",
    ggml_id: Some(28),
    block_len: 1,
    block_bytes: 8,
    dequant: |bytes, out| {
        decode(bytes, out, |x: &[u8; 8], [out]: &mut [f32; 1]| *out = f64::from_le_bytes(*x) as f32)
    },
    chunks: |_, _| {},
    packing: Packing::Float,
    non_finite: |bytes| first_block(bytes, |x: &[u8; 8]| (f64::from_le_bytes(*x) as f32).is_finite()),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/f64"),
};

/// Eight bits: 4 of exponent (bias 7), 3 of fraction; no infinities, NaN where all seven are set (E4M3FN). Not in GGUF.
pub(super) const F8_E4M3: Format = Format {
    dtype: DType::F8_E4M3,
    name: "f8_e4m3",
    ggml_id: None,
    block_len: 1,
    block_bytes: 1,
    dequant: |bytes, out| decode(bytes, out, |x: &[u8; 1], [out]: &mut [f32; 1]| *out = e4m3_value(x[0])),
    chunks: |_, _| {},
    packing: Packing::Float,
    non_finite: |bytes| first_block(bytes, |x: &[u8; 1]| (e4m3_value(x[0])).is_finite()),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/f8_e4m3"),
};

/// Eight bits: the upper half of an IEEE half. Not in GGUF.
pub(super) const F8_E5M2: Format = Format {
    dtype: DType::F8_E5M2,
    name: "f8_e5m2",
    ggml_id: None,
    block_len: 1,
    block_bytes: 1,
    dequant: |bytes, out| decode(bytes, out, |x: &[u8; 1], [out]: &mut [f32; 1]| *out = f16_value([0, x[0]])),
    chunks: |_, _| {},
    packing: Packing::Float,
    non_finite: |bytes| first_block(bytes, |x: &[u8; 1]| (f16_value([0, x[0]])).is_finite()),
    quantize: None,
    table: &[],
    planes: &[],
    wgsl: wgsl!("quant/f8_e5m2"),
};

fn bf16_value(bytes: [u8; 2]) -> f32 {
    f32::from_le_bytes([0, 0, bytes[0], bytes[1]])
}

fn e4m3_value(bits: u8) -> f32 {
    let (exponent, fraction) = (bits >> 3 & 15, bits & 7);
    let magnitude = match (exponent, fraction) {
        (15, 7) => f32::NAN,
        (0, _) => f32::from(fraction) / 512.0,
        _ => f32::from_bits(u32::from(exponent + 127 - 7) << 23 | u32::from(fraction) << 20),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Stores each number of a row as `N` bytes.
fn each_float<const N: usize>(row: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (x, out) in row.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = bytes(*x);
    }
}
