//! Launches of the ops that read weight matrices. Must not know wgpu.

use super::super::kernels::{Kernel, MatMulTile, Variant};
use super::{Grid, Home, Planner, flat, internal, outputs};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, Rows, ValueId, WeightId};

impl Planner<'_> {
    pub(super) fn embed(&mut self, index: usize, table: WeightId, scale: f32, out: ValueId) -> Result<()> {
        self.rows_of_table(index, table, scale, None, out)
    }

    /// `out = x + row of the position`
    pub(super) fn add_position(
        &mut self,
        index: usize,
        x: ValueId,
        table: WeightId,
        out: ValueId,
    ) -> Result<()> {
        let n_positions = self.model.graph.weights[table.0].n_rows;
        if self.model.n_ctx > n_positions {
            let message = format!("the model knows {n_positions} positions, n_ctx is {}", self.model.n_ctx);
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("n_ctx"));
        }
        self.rows_of_table(index, table, 1.0, Some(x), out)
    }

    /// Rows by token id, or by position where they are added to `x`.
    fn rows_of_table(
        &mut self,
        index: usize,
        table: WeightId,
        scale: f32,
        x: Option<ValueId>,
        out: ValueId,
    ) -> Result<()> {
        let Home::Matrix { row_blocks, parts } = self.plan.homes[table.0].clone() else {
            return Err(internal("the embedding table is a vector"));
        };
        let n_cols = self.width(out);
        let variant = Variant::weights(Kernel::Embed, self.model.dtypes[table.0], n_cols as usize, self.f16);
        let stage = self.stage(variant, flat(n_cols.div_ceil(8 * 64)));
        let (addend, addend_buffer) = self.addend(x, out);
        for (part, buffer) in parts {
            let (n_rows, first_row) = (part.n_rows as u32, part.first_row as u32);
            let positions = u32::from(x.is_some());
            let table_rows = self.model.graph.weights[table.0].n_rows as u32;
            let params =
                [n_cols, n_rows, row_blocks, first_row, scale.to_bits(), positions, addend, table_rows];
            let buffers = [buffer, addend_buffer, self.value(out)];
            self.launch(index, Rows::Tokens, [stage; 2], &params, &buffers)?;
            self.last_launch().shares = table_rows;
        }
        Ok(())
    }

    pub(super) fn mat_mul(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::MatMul { x, weight, bias, add, scale, out } = op else {
            return Err(internal("not a product"));
        };
        let Home::Matrix { row_blocks, parts } = self.plan.homes[weight.0].clone() else {
            return Err(internal("a vector is used as a matrix"));
        };
        let (n_cols, rows) = (self.width(x), self.rows(out));
        let dtype = self.model.dtypes[weight.0];
        let few = Variant::weights(Kernel::MatVec, dtype, n_cols as usize, self.f16);
        let (tile, kernel) = self.tuning.tile.unwrap_or(MatMulTile::USUAL).of_weights(dtype, n_cols);
        let many = Variant::mat_mul((tile, kernel), dtype, n_cols as usize, self.f16);
        let (addend, addend_buffer) = self.addend(add, out);
        for (part, buffer) in parts {
            let n_rows = part.n_rows as u32;
            let few_grid = self.folded(n_rows.div_ceil(self.group_rows()));
            let many_grid = Grid { div: tile.x, ..self.folded(n_rows.div_ceil(tile.w)) };
            let stages = [self.stage(few, few_grid), self.stage(many, many_grid)];
            let params = [
                n_cols,
                n_rows,
                row_blocks,
                self.width(out),
                part.first_row as u32,
                outputs(rows),
                u32::from(bias.is_some()),
                addend,
                scale.to_bits(),
            ];
            let buffers = [buffer, self.value(x), self.vector(bias)?, addend_buffer, self.value(out)];
            self.launch(index, rows, stages, &params, &buffers)?;
        }
        Ok(())
    }
}
