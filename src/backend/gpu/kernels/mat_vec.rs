//! How the work of a product of few rows is spread over a workgroup.
//!
//! Principal type: [`MatVecShape`]. Must not know which of them suits a device.

/// Rows of activations that a mat-vec workgroup takes in steps of several.
pub const X_ROWS: u32 = 4;

/// How the lanes of a mat-vec workgroup are spread; see shaders/matmul/row_sums.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatVecShape {
    /// Lanes along a weight row, a power of two.
    pub k_lanes: u32,
    /// Groups of lanes that each take [`MatVecShape::rows`] rows.
    pub lanes_n: u32,
    /// Weight rows of a lane: activations are loaded, and normalised, once for all of them, while more rows leave fewer
    /// workgroups to a device that runs many at once.
    pub rows: u32,
}

impl MatVecShape {
    /// What suits most adapters; it comes first among those that are measured.
    pub const USUAL: MatVecShape = MatVecShape { k_lanes: 16, lanes_n: 4, rows: 4 };
    /// For adapters of software: they have few cores to fill, and pay for every load.
    pub const SOFTWARE: MatVecShape = MatVecShape { rows: 8, ..MatVecShape::USUAL };
    /// All that may be measured. A workgroup has a lane for each of its rows.
    pub const ALL: [MatVecShape; 5] = [
        MatVecShape::USUAL,
        MatVecShape::SOFTWARE,
        MatVecShape { k_lanes: 32, lanes_n: 2, rows: 4 },
        MatVecShape { k_lanes: 64, lanes_n: 2, rows: 2 },
        MatVecShape { k_lanes: 32, lanes_n: 4, rows: 2 },
    ];

    /// Lanes of a workgroup.
    pub fn lanes(self) -> u32 {
        self.k_lanes * self.lanes_n
    }

    /// Weight rows of a workgroup.
    pub fn group_rows(self) -> u32 {
        self.lanes_n * self.rows
    }
}
