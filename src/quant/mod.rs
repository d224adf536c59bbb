//! Weight formats: one file per family of formats and one registry.
//!
//! Principal type: [`Format`], found by [`format`]. A format knows how its blocks decode; it must not know tensors'
//! names, models or backends.

use crate::tensor::DType;

/// A weight format.
pub struct Format {
    /// Which one.
    pub dtype: DType,
    /// Name as users write it, such as `q4_1`.
    pub name: &'static str,
    /// ggml's type id.
    pub ggml_id: u32,
    /// Elements of a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Decodes whole blocks: `bytes.len() / block_bytes * block_len == out.len()`. Scalar, bit-exact, the oracle.
    pub dequant: fn(bytes: &[u8], out: &mut [f32]),
    /// WGSL fragment that decodes the format on the GPU (interface in shaders/README.md).
    pub wgsl: &'static str,
}

/// All supported formats, in the order of their ggml ids.
pub static FORMATS: &[Format] = &[];

/// The format of `dtype`.
pub fn format(dtype: DType) -> &'static Format {
    FORMATS.iter().find(|format| format.dtype == dtype).expect("invariant: every DType has a row in FORMATS")
}
