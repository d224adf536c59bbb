//! What a plan may do in one way or another, as the device wants it.
//!
//! Principal type: [`Tuning`]. Must not know graphs.

use super::MAX_WORKGROUPS;
use crate::backend::KV_PAGE;
use crate::backend::gpu::device::AdapterInfo;
use crate::backend::gpu::kernels::{MatMulTile, MatVecShape, SUBGROUP_LANES, X_ROWS};

/// Sizes that trade speed for memory, or that tests make small; the defaults suit every device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Most bytes of a weight in one buffer; the device's limits apply besides.
    pub max_part_bytes: u64,
    /// Grids over weight rows with more workgroups than this are folded into a second dimension.
    pub fold_workgroups: u32,
    /// Room for logits: so many rows are computed at once when all are wanted.
    pub logits_bytes: u64,
    /// Up to this many rows of activations go through the mat-vec kernels; `None`: as suits the device.
    pub few_rows: Option<usize>,
    /// Keys that a workgroup of decode attention takes, in whole tiles.
    pub run_keys: usize,
    /// How workgroups of the mat-vec kernels are spread; `None`: as suits the device.
    pub mat_vec: Option<MatVecShape>,
    /// Whether kernels use subgroups, where the device has them; `None`: as suits the device.
    pub subgroups: Option<bool>,
    /// The rows of workgroups of the mat-mul; `None`: as suits the device.
    pub tile: Option<MatMulTile>,
    /// Whether lanes of the mat-mul without tiles hand each other what they load; `None`: where a workgroup of it is a
    /// subgroup.
    pub hand_on: Option<bool>,
    /// Positions that the KV cache grows by.
    pub page: usize,
    /// Whether steps of few tokens run several ops in one dispatch where they can.
    pub fuse: bool,
    /// Whether the GPU chooses tokens.
    pub choose: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            max_part_bytes: 1 << 30,
            fold_workgroups: MAX_WORKGROUPS,
            logits_bytes: 8 << 20,
            few_rows: None,
            run_keys: 128,
            mat_vec: None,
            subgroups: None,
            tile: None,
            hand_on: None,
            page: KV_PAGE,
            fuse: true,
            choose: true,
        }
    }
}

impl Tuning {
    /// [`Tuning::few_rows`], decided.
    pub(crate) fn few_rows(&self) -> usize {
        self.few_rows.unwrap_or(X_ROWS as usize)
    }

    /// The same within the device's limits, and with what was left to the device decided.
    pub fn on(self, info: &AdapterInfo) -> Tuning {
        let max_part_bytes = self.max_part_bytes.min(info.most_bound_bytes());
        let hardware = !info.fallback;
        // As many rows as the mat-vec takes at once, so that it reads the weights once; software pays for activations too.
        let (shape, tile, few_rows) = match hardware {
            true => (MatVecShape::USUAL, MatMulTile::USUAL, X_ROWS as usize),
            false => (MatVecShape::SOFTWARE, MatMulTile::ROWS, 1),
        };
        Tuning {
            max_part_bytes,
            mat_vec: self.mat_vec.or(Some(shape)),
            subgroups: Some(self.subgroups.unwrap_or(hardware) && info.subgroups),
            few_rows: Some(self.few_rows.unwrap_or(few_rows)),
            tile: self.tile.or(Some(tile)),
            hand_on: Some(self.hand_on.unwrap_or(true) && info.subgroup_lanes == Some(SUBGROUP_LANES)),
            ..self
        }
    }
}
