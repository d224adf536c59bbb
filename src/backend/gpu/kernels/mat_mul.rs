//! How the work of a product of many rows is spread over workgroups.
//!
//! Principal type: [`MatMulTile`]. Must not know which of them suits a device.

use super::{CHUNK, Kernel};
use crate::tensor::DType;

/// The rows of a mat-mul workgroup; see shaders/matmul/mat_mul.wgsl, and mat_mul_rows.wgsl for [`MatMulTile::ROWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatMulTile {
    /// Of weights.
    pub w: u32,
    /// Of activations.
    pub x: u32,
    /// Whether activations are rounded to 8 bits and multiplied four at a time, where the weights' codes are such integers.
    pub packed: bool,
}

impl MatMulTile {
    /// What suits most adapters; it comes first among those that are measured.
    pub const USUAL: MatMulTile = MatMulTile { w: 64, x: 32, packed: false };
    /// Without workgroup memory, for adapters of software.
    pub const ROWS: MatMulTile = MatMulTile { w: 128, x: 8, packed: false };
    /// All that may be measured. The tall one reads 12 vectors of workgroup memory for 32 dot products where the usual one
    /// reads 8 for 16, and decodes a weight for twice as many rows; in return a lane keeps 32 sums, and prompts of few
    /// tokens fill half of it.
    pub const ALL: [MatMulTile; 5] = [
        MatMulTile::USUAL,
        MatMulTile { w: 64, x: 64, packed: false },
        MatMulTile { w: 64, x: 32, packed: true },
        MatMulTile { w: 64, x: 64, packed: true },
        MatMulTile::ROWS,
    ];

    /// The tile for weights in `dtype` of `n_cols` columns, and its kernel: the one without workgroup memory wants whole
    /// chunks, packed products integers of 8 bits.
    pub fn of_weights(self, dtype: DType, n_cols: u32) -> (MatMulTile, Kernel) {
        match self {
            MatMulTile::ROWS if n_cols.is_multiple_of(CHUNK) => (self, Kernel::MatMulRows),
            MatMulTile::ROWS => (MatMulTile::USUAL, Kernel::MatMul),
            _ => (MatMulTile { packed: self.packed && has_integer_codes(dtype), ..self }, Kernel::MatMul),
        }
    }
}

/// Whether `q_codes` of the format's fragment gives integers of 8 bits.
fn has_integer_codes(dtype: DType) -> bool {
    use DType::{IQ4_NL, IQ4_XS, MXFP4, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    matches!(dtype, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_NL | IQ4_XS | MXFP4)
}
