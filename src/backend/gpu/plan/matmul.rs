//! Launches of the ops that read weight matrices. Must not know wgpu.

use super::super::kernels::{Kernel, MAT_MUL_TILE, MAT_VEC_LANES_N, MAT_VEC_ROWS, Variant};
use super::{Grid, Home, Planner, flat, internal, outputs};
use crate::error::Result;
use crate::model::graph::{Op, Rows, ValueId, WeightId};

impl Planner<'_> {
    pub(super) fn embed(&mut self, index: usize, table: WeightId, scale: f32, out: ValueId) -> Result<()> {
        let Home::Matrix { row_bytes, parts } = self.plan.homes[table.0].clone() else {
            return Err(internal("the embedding table is a vector"));
        };
        let n_cols = self.width(out);
        let variant = Variant::weights(Kernel::Embed, self.model.dtypes[table.0], n_cols as usize, self.f16);
        let stage = self.stage(variant, flat(n_cols.div_ceil(8 * 64)));
        for (part, buffer) in parts {
            let params =
                [n_cols, part.n_rows as u32, row_bytes as u32, part.first_row as u32, scale.to_bits()];
            self.launch(index, Rows::Tokens, [stage; 2], &params, &[buffer, self.value(out)])?;
        }
        Ok(())
    }

    pub(super) fn mat_mul(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::MatMul { x, weight, bias, add, scale, out } = op else {
            return Err(internal("not a product"));
        };
        let Home::Matrix { row_bytes, parts } = self.plan.homes[weight.0].clone() else {
            return Err(internal("a vector is used as a matrix"));
        };
        let (n_cols, rows) = (self.width(x), self.rows(out));
        let dtype = self.model.dtypes[weight.0];
        let few = Variant::weights(Kernel::MatVec, dtype, n_cols as usize, self.f16);
        let many = Variant::weights(Kernel::MatMul, dtype, n_cols as usize, self.f16);
        let (addend, addend_buffer) = match add {
            None => (0, self.none),
            Some(add) if add == out => (2, self.none),
            Some(add) => (1, self.value(add)),
        };
        for (part, buffer) in parts {
            let n_rows = part.n_rows as u32;
            let few_grid = self.folded(n_rows.div_ceil(MAT_VEC_LANES_N * MAT_VEC_ROWS));
            let many_grid = Grid { div: MAT_MUL_TILE.1, ..self.folded(n_rows.div_ceil(MAT_MUL_TILE.0)) };
            let stages = [self.stage(few, few_grid), self.stage(many, many_grid)];
            let params = [
                n_cols,
                n_rows,
                row_bytes as u32,
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
