//! What a stored tensor is: element type, shape and place in its file.
//!
//! Principal type: [`TensorDesc`]. This module must not know how a type is decoded (that is `quant`) nor what a
//! tensor is for (that is `model`).

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the field's own spelling of the formats")]
#[allow(missing_docs, reason = "the names are the documentation; layouts are described in `quant`")]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8_E4M3,
    F8_E5M2,
    Q1_0,
    Q2_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    A4,
    A8,
}

/// A tensor of a model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDesc {
    /// Canonical (GGUF) name, such as `blk.3.attn_q.weight`.
    pub name: String,
    /// Storage format.
    pub dtype: DType,
    /// Dimensions with the contiguous one first, as GGUF writes them: a matrix of a linear layer is
    /// `[n_in, n_out]`, one row of `n_in` elements per output.
    pub dims: Vec<u64>,
    /// Absolute position of the first byte in the file.
    pub offset: u64,
    /// Size in the file, without padding.
    pub n_bytes: u64,
}

impl TensorDesc {
    /// Number of contiguous elements of a row, `dims[0]`.
    pub fn n_cols(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Number of rows: the product of the other dimensions.
    pub fn n_rows(&self) -> u64 {
        self.dims.iter().skip(1).product()
    }
}
