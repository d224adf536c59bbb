//! How the work of a product of many rows is spread over workgroups.
//!
//! Principal type: [`MatMulTile`]. Must not know which of them suits a device.

use super::{CHUNK, Kernel};

/// The rows of a mat-mul workgroup; see shaders/matmul/mat_mul.wgsl, and mat_mul_rows.wgsl for [`MatMulTile::ROWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatMulTile {
    /// Of weights.
    pub w: u32,
    /// Of activations.
    pub x: u32,
}

impl MatMulTile {
    /// What suits most adapters; it comes first among those that are measured.
    pub const USUAL: MatMulTile = MatMulTile { w: 64, x: 32 };
    /// Without workgroup memory, for adapters of software.
    pub const ROWS: MatMulTile = MatMulTile { w: 128, x: 8 };
    /// All that may be measured. The tall one reads 12 vectors of workgroup memory for 32 dot products where the usual one
    /// reads 8 for 16, and decodes a weight for twice as many rows; in return a lane keeps 32 sums, and prompts of few
    /// tokens fill half of it.
    pub const ALL: [MatMulTile; 3] = [MatMulTile::USUAL, MatMulTile { w: 64, x: 64 }, MatMulTile::ROWS];

    /// The tile for rows of `n_cols` elements, and its kernel: the one without workgroup memory wants whole chunks.
    pub fn of_rows(self, n_cols: u32) -> (MatMulTile, Kernel) {
        match self {
            MatMulTile::ROWS if n_cols.is_multiple_of(CHUNK) => (self, Kernel::MatMulRows),
            MatMulTile::ROWS => (MatMulTile::USUAL, Kernel::MatMul),
            _ => (self, Kernel::MatMul),
        }
    }
}
