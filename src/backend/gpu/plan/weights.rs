//! Where weights go: which share a buffer, which are cut into parts, and how many bytes they take on the device.
//! Must not know wgpu.

use std::collections::HashMap;

use super::{BINDING_ALIGNMENT, Home, Planner};
use crate::backend::gpu::memory::{self, Part};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{WeightId, WeightKind};
use crate::quant;
use crate::tensor::DType;

impl Planner<'_> {
    /// Bytes of a weight that is in one buffer, and of a row of a matrix.
    fn weight_bytes(&self, weight: WeightId) -> Result<(u64, u64)> {
        let (decl, dtype) = (&self.model.graph.weights[weight.0], self.model.dtypes[weight.0]);
        if decl.kind == WeightKind::Vector {
            return Ok((decl.n_cols as u64 * 4, 0));
        }
        let format = quant::format(dtype);
        let row_bytes = format.row_bytes(decl.n_cols as u64).ok_or_else(|| {
            let message = format!("rows of {} elements are no whole {} blocks", decl.n_cols, format.name);
            Error::new(ErrorCode::WrongShape, message).at(decl.name.clone())
        })?;
        Ok((self.matrix_bytes(dtype, decl.n_rows as u64 * row_bytes), row_bytes))
    }

    /// Bytes that `stored` ones of a matrix take: with its format's table before them, in whole groups of blocks.
    fn matrix_bytes(&self, dtype: DType, stored: u64) -> u64 {
        let format = quant::format(dtype);
        // A word more: reads at odd bytes take the next word too.
        size_of_val(format.table) as u64 + stored.next_multiple_of(group_bytes(format)) + 4
    }

    /// Where a weight may begin in a buffer that it shares: at a block that begins a group and a binding.
    fn alignment(&self, weight: WeightId) -> u64 {
        match self.model.graph.weights[weight.0].kind {
            WeightKind::Vector => BINDING_ALIGNMENT,
            _ => {
                let bytes = group_bytes(quant::format(self.model.dtypes[weight.0]));
                bytes * (BINDING_ALIGNMENT >> bytes.trailing_zeros().min(BINDING_ALIGNMENT.trailing_zeros()))
            }
        }
    }

    /// Whether `weights` can stand in one buffer, each at a place where a binding may begin.
    pub(super) fn fits_one_buffer(&self, weights: &[WeightId]) -> bool {
        let bytes = weights.iter().try_fold(0_u64, |sum, weight| {
            let (bytes, _) = self.weight_bytes(*weight).ok()?;
            sum.next_multiple_of(self.alignment(*weight)).checked_add(bytes)
        });
        // With the reserve that cutting weights leaves.
        bytes.is_some_and(|bytes| bytes + 8 <= self.tuning.max_part_bytes.min(u64::from(u32::MAX)))
    }

    /// Gives every weight its home, and the buffers for them.
    /// # Errors
    /// `WrongShape` for rows that are no whole blocks, `OutOfMemory` for a row that no binding holds.
    pub(super) fn weights(&mut self) -> Result<()> {
        let model = self.model;
        // Where the bundled weights go: a buffer each bundle.
        let mut places = HashMap::new();
        for bundle in self.plan.bundles.clone() {
            let mut at = 0;
            let parent = self.buffer("bundle", 0);
            for weight in bundle {
                at = u64::next_multiple_of(at, self.alignment(weight));
                places.insert(weight, (parent, at));
                // Whole vectors of 16 bytes, as of every buffer.
                at += self.weight_bytes(weight)?.0.next_multiple_of(16);
            }
            self.plan.buffers[parent].bytes = at;
        }
        for (index, (decl, dtype)) in model.graph.weights.iter().zip(&model.dtypes).enumerate() {
            let (bytes, row_bytes) = self.weight_bytes(WeightId(index))?;
            let place = places.get(&WeightId(index)).copied();
            let bundled = place.map(|place| self.run_of_buffer(&decl.name, bytes, place));
            if decl.kind == WeightKind::Vector {
                let buffer = bundled.unwrap_or_else(|| self.buffer(&decl.name, bytes));
                self.plan.homes.push(Home::Vector { buffer });
                continue;
            }
            let format = quant::format(*dtype);
            let row_blocks = (decl.n_cols / format.block_len) as u32;
            if let Some(buffer) = bundled {
                let part = Part { first_row: 0, n_rows: decl.n_rows as u64 };
                self.plan.homes.push(Home::Matrix { row_blocks, parts: vec![(part, buffer)] });
                continue;
            }
            let besides = size_of_val(format.table) as u64 + group_bytes(format);
            let room = self.tuning.max_part_bytes.saturating_sub(besides);
            let cut = memory::cut_rows(&decl.name, decl.n_rows as u64, row_bytes, room)?;
            let mut parts = Vec::with_capacity(cut.len());
            for part in cut {
                let buffer = self.buffer(&decl.name, self.matrix_bytes(*dtype, part.n_rows * row_bytes));
                parts.push((part, buffer));
            }
            self.plan.homes.push(Home::Matrix { row_blocks, parts });
        }
        Ok(())
    }
}

/// Bytes of a group of blocks.
fn group_bytes(format: &quant::Format) -> u64 {
    format.group_blocks() * format.block_bytes as u64
}
