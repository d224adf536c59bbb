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
    supported(10, "Q2_K", DType::Q2_K, 256, 84),
    supported(11, "Q3_K", DType::Q3_K, 256, 110),
    supported(12, "Q4_K", DType::Q4_K, 256, 144),
    supported(13, "Q5_K", DType::Q5_K, 256, 176),
    supported(14, "Q6_K", DType::Q6_K, 256, 210),
    unsupported(15, "Q8_K"),
    supported(16, "IQ2_XXS", DType::IQ2_XXS, 256, 66),
    supported(17, "IQ2_XS", DType::IQ2_XS, 256, 74),
    supported(18, "IQ3_XXS", DType::IQ3_XXS, 256, 98),
    supported(19, "IQ1_S", DType::IQ1_S, 256, 50),
    supported(20, "IQ4_NL", DType::IQ4_NL, 32, 18),
    supported(21, "IQ3_S", DType::IQ3_S, 256, 110),
    supported(22, "IQ2_S", DType::IQ2_S, 256, 82),
    supported(23, "IQ4_XS", DType::IQ4_XS, 256, 136),
    unsupported(24, "I8"),
    unsupported(25, "I16"),
    unsupported(26, "I32"),
    unsupported(27, "I64"),
    supported(28, "F64", DType::F64, 1, 8),
    supported(29, "IQ1_M", DType::IQ1_M, 256, 56),
    supported(30, "BF16", DType::BF16, 1, 2),
    removed(31, "Q4_0_4_4"),
    removed(32, "Q4_0_4_8"),
    removed(33, "Q4_0_8_8"),
    supported(34, "TQ1_0", DType::TQ1_0, 256, 54),
    supported(35, "TQ2_0", DType::TQ2_0, 256, 66),
    removed(36, "IQ4_NL_4_4"),
    removed(37, "IQ4_NL_4_8"),
    removed(38, "IQ4_NL_8_8"),
    supported(39, "MXFP4", DType::MXFP4, 32, 17),
    supported(40, "NVFP4", DType::NVFP4, 64, 36),
    supported(41, "Q1_0", DType::Q1_0, 128, 18),
    supported(42, "Q2_0", DType::Q2_0, 64, 18),
];
