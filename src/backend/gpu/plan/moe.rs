//! Launches of mixtures of experts. The choice never leaves the GPU: the products read it. Must not know wgpu.

use super::super::kernels::{ELEMENTWISE_LANES, Kernel, MAX_EXPERTS, MatMulTile, Variant};
use super::elementwise::activation_params;
use super::{Grid, Home, Planner, Stage, flat, internal, outputs};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::Op;
use crate::model::spec::Gating;

impl Planner<'_> {
    pub(super) fn route(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::Route { logits, routing, choice_bias, out } = op else {
            return Err(internal("not a choice of experts"));
        };
        if routing.n_experts > MAX_EXPERTS as usize {
            let message = format!(
                "{} experts; the GPU backend takes {MAX_EXPERTS}; use the CPU backend for this model",
                routing.n_experts
            );
            return Err(Error::new(ErrorCode::LimitExceeded, message));
        }
        let (gating, jitter) = match routing.gating {
            Gating::Softmax => (0, 0.0),
            Gating::SoftmaxOfChosen => (1, 0.0),
            Gating::Sigmoid => (2, 0.0),
            Gating::SparseMixer { jitter } => (3, jitter),
        };
        let rows = self.rows(out);
        let params = [
            routing.n_experts as u32,
            routing.n_used as u32,
            outputs(rows),
            gating,
            u32::from(routing.renormalize),
            u32::from(choice_bias.is_some()),
            routing.scale.to_bits(),
            jitter.to_bits(),
        ];
        let buffers = [self.value(logits), self.vector(choice_bias)?, self.value(out)];
        let stage = self.stage(Variant::plain(Kernel::Route), flat(1));
        self.grouped = None;
        self.launch(index, rows, [stage; 2], &params, &buffers)
    }

    /// Few tokens: a workgroup row for each pair of a token and a chosen expert. Many: tiles of pairs that chose the same.
    pub(super) fn expert_mat_mul(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::ExpertMatMul { x, selection, weight, bias, n_experts, out } = op else {
            return Err(internal("not a product with experts"));
        };
        let Home::Matrix { row_blocks, parts } = self.plan.homes[weight.0].clone() else {
            return Err(internal("a vector is used as experts"));
        };
        let (decl, dtype) = (&self.model.graph.weights[weight.0], self.model.dtypes[weight.0]);
        let (n_cols, n_out) = (decl.n_cols, (decl.n_rows / n_experts.max(1)) as u32);
        let (n_used, rows) = (self.width(selection) / 2, self.rows(out));
        // Experts have few rows each: they would leave taller tiles empty.
        let tile = match self.tuning.tile {
            Some(MatMulTile::ROWS) => MatMulTile::ROWS,
            tile => MatMulTile { packed: tile.is_some_and(|tile| tile.packed), ..MatMulTile::USUAL },
        };
        let (tile, kernel) = tile.of_weights(dtype, n_cols as u32);
        let few = Variant::weights(Kernel::ExpertMatVec, dtype, n_cols, self.f16);
        let few_grid = Grid { mul: n_used, ..self.folded(n_out.div_ceil(self.group_rows())) };
        let few = self.stage(few, few_grid);
        let many = Variant::mat_mul((tile, kernel), dtype, n_cols, self.f16).of_experts();
        let grid = Grid { mul: n_used, div: tile.x, ..self.folded(n_out.div_ceil(tile.w)) };
        let many = self.stage(many, Grid { more: n_experts as u32, ..grid });
        // A tile pays where an expert has as many rows as other products want for it.
        let few_rows = self.tuning.few_rows() * n_experts / (n_used as usize).max(1);
        let n_tiles = self.group_pairs(index, op, tile.x, few_rows)?;
        for (part, buffer) in parts {
            let params = [
                n_cols as u32,
                part.n_rows as u32,
                row_blocks,
                part.first_row as u32,
                n_out,
                n_experts as u32,
                n_used,
                u32::from(self.width(x) as usize == n_cols),
                outputs(rows),
                u32::from(bias.is_some()),
                n_tiles,
            ];
            for (stages, chosen) in
                [([few, left_out(few)], self.value(selection)), ([left_out(many), many], self.plan.groups)]
            {
                let buffers = [buffer, self.value(x), self.vector(bias)?, chosen, self.value(out)];
                self.launch(index, rows, stages, &params, &buffers)?;
                let launch = self.last_launch();
                (launch.few_rows, launch.shares) = (few_rows, n_experts as u32);
            }
        }
        Ok(())
    }

    /// Has pairs of token and chosen expert in tiles of `tile`, unless they are so already; for how many tiles there is room.
    fn group_pairs(&mut self, index: usize, op: &Op, tile: u32, few_rows: usize) -> Result<u32> {
        let &Op::ExpertMatMul { selection, n_experts, .. } = op else {
            return Err(internal("not a product with experts"));
        };
        let (n_used, rows) = (self.width(selection) / 2, self.rows(selection));
        let n_tiles = (self.model.n_batch as u32 * n_used).div_ceil(tile) + n_experts as u32;
        if self.grouped.replace((selection, tile)) == Some((selection, tile)) {
            return Ok(n_tiles);
        }
        let groups = self.plan.groups;
        let bytes = &mut self.plan.buffers[groups].bytes;
        *bytes = (*bytes).max(u64::from(n_tiles) * u64::from(tile + 1) * 4).next_multiple_of(16);
        let params = [n_experts as u32, n_used, outputs(rows), n_tiles, tile];
        let stage = self.stage(Variant::plain(Kernel::GroupPairs), Grid { div: u32::MAX, ..flat(1) });
        let buffers = [self.value(selection), groups];
        self.launch(index, rows, [left_out(stage), stage], &params, &buffers)?;
        self.last_launch().few_rows = few_rows;
        Ok(n_tiles)
    }

    pub(super) fn expert_sum(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::ExpertSum { x, selection, add, out } = op else {
            return Err(internal("not a sum of experts"));
        };
        let (addend, addend_buffer) = self.addend(add, out);
        let rows = self.rows(out);
        let params = [self.width(out), self.width(selection) / 2, outputs(rows), addend];
        let stage =
            self.stage(Variant::plain(Kernel::ExpertSum), flat(self.width(out).div_ceil(ELEMENTWISE_LANES)));
        let buffers = [self.value(x), self.value(selection), addend_buffer, self.value(out)];
        self.launch(index, rows, [stage; 2], &params, &buffers)
    }

    pub(super) fn fused_gated_activation(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::FusedGatedActivation { x, n_ff, activation, out } = op else {
            return Err(internal("not an activation"));
        };
        let [activation, alpha, limit] = activation_params(activation);
        let (width, rows) = (self.width(out), self.rows(out));
        let params = [width, n_ff as u32, outputs(rows), activation, alpha, limit];
        let grid = flat(width.div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::FusedGatedActivation), grid);
        self.launch(index, rows, [stage; 2], &params, &[self.value(x), self.value(out)])
    }
}

/// The stage of rows for which a launch is left out.
fn left_out(stage: Stage) -> Stage {
    Stage { grid: Grid { mul: 0, more: 0, ..stage.grid }, ..stage }
}
