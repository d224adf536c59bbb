//! ggml's table of tensor types: every id ever given out, supported here or not, so that errors can name it.
//! Principal type: [`GgmlType`]. Must not know how a type is decoded.

use crate::tensor::DType;

/// A type of ggml's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// ggml's number.
    pub id: u32,
    /// ggml's name.
    pub name: &'static str,
    /// What Lamplight makes of it.
    pub status: TypeStatus,
}

/// Whether tensors of a type can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeStatus {
    /// Yes.
    Supported {
        /// As which type.
        dtype: DType,
        /// Elements of a block.
        block_len: u64,
        /// Bytes of a block.
        block_bytes: u64,
    },
    /// Not by this version of Lamplight.
    Unsupported,
    /// ggml itself has removed it; files must be converted anew.
    Removed,
}

/// The row of `id`, if ggml ever gave it out.
pub fn ggml_type(id: u32) -> Option<GgmlType> {
    TYPES.iter().find(|row| row.id == id).copied()
}

const fn supported(id: u32, name: &'static str, dtype: DType, block_len: u64, block_bytes: u64) -> GgmlType {
    let status = TypeStatus::Supported { dtype, block_len, block_bytes };
    GgmlType { id, name, status }
}

const fn unsupported(id: u32, name: &'static str) -> GgmlType {
    GgmlType { id, name, status: TypeStatus::Unsupported }
}

const fn removed(id: u32, name: &'static str) -> GgmlType {
    GgmlType { id, name, status: TypeStatus::Removed }
}

/// In the order of the ids. The block sizes stand here as well as in `quant`, which comes after this module; a test
/// there holds them equal.
const TYPES: &[GgmlType] = &[
    supported(0, "F32", DType::F32, 1, 4),
    supported(1, "F16", DType::F16, 1, 2),
    supported(2, "Q4_0", DType::Q4_0, 32, 18),
    supported(3, "Q4_1", DType::Q4_1, 32, 20),
    removed(4, "Q4_2"),
    removed(5, "Q4_3"),
    supported(6, "Q5_0", DType::Q5_0, 32, 22),
    supported(7, "Q5_1", DType::Q5_1, 32, 24),
    supported(8, "Q8_0", DType::Q8_0, 32, 34),
    unsupported(9, "Q8_1"),
    unsupported(10, "Q2_K"),
    unsupported(11, "Q3_K"),
    supported(12, "Q4_K", DType::Q4_K, 256, 144),
    supported(13, "Q5_K", DType::Q5_K, 256, 176),
    supported(14, "Q6_K", DType::Q6_K, 256, 210),
    unsupported(15, "Q8_K"),
    unsupported(16, "IQ2_XXS"),
    unsupported(17, "IQ2_XS"),
    unsupported(18, "IQ3_XXS"),
    unsupported(19, "IQ1_S"),
    unsupported(20, "IQ4_NL"),
    unsupported(21, "IQ3_S"),
    unsupported(22, "IQ2_S"),
    unsupported(23, "IQ4_XS"),
    unsupported(24, "I8"),
    unsupported(25, "I16"),
    unsupported(26, "I32"),
    unsupported(27, "I64"),
    unsupported(28, "F64"),
    unsupported(29, "IQ1_M"),
    supported(30, "BF16", DType::BF16, 1, 2),
    removed(31, "Q4_0_4_4"),
    removed(32, "Q4_0_4_8"),
    removed(33, "Q4_0_8_8"),
    unsupported(34, "TQ1_0"),
    unsupported(35, "TQ2_0"),
    removed(36, "IQ4_NL_4_4"),
    removed(37, "IQ4_NL_4_8"),
    removed(38, "IQ4_NL_8_8"),
    unsupported(39, "MXFP4"),
    unsupported(40, "NVFP4"),
    unsupported(41, "Q1_0"),
    unsupported(42, "Q2_0"),
];
