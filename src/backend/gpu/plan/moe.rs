//! Launches of mixtures of experts. The choice never leaves the GPU: the products read it. Must not know wgpu.

use super::super::kernels::{ELEMENTWISE_LANES, Kernel, MAX_EXPERTS, Variant};
use super::elementwise::activation_params;
use super::{Grid, Home, Planner, flat, internal, outputs};
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
        self.launch(index, rows, [stage; 2], &params, &buffers)
    }

    /// A workgroup row for each pair of a token and a chosen expert.
    pub(super) fn expert_mat_mul(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::ExpertMatMul { x, selection, weight, bias, n_experts, out } = op else {
            return Err(internal("not a product with experts"));
        };
        let Home::Matrix { row_bytes, parts } = self.plan.homes[weight.0].clone() else {
            return Err(internal("a vector is used as experts"));
        };
        let decl = &self.model.graph.weights[weight.0];
        let (n_cols, n_out) = (decl.n_cols, (decl.n_rows / n_experts.max(1)) as u32);
        let (n_used, rows) = (self.width(selection) / 2, self.rows(out));
        let variant = Variant::weights(Kernel::ExpertMatVec, self.model.dtypes[weight.0], n_cols, self.f16);
        let grid = Grid { mul: n_used, ..self.folded(n_out.div_ceil(self.group_rows())) };
        let stage = self.stage(variant, grid);
        for (part, buffer) in parts {
            let params = [
                n_cols as u32,
                part.n_rows as u32,
                row_bytes as u32,
                part.first_row as u32,
                n_out,
                n_experts as u32,
                n_used,
                u32::from(self.width(x) as usize == n_cols),
                outputs(rows),
                u32::from(bias.is_some()),
            ];
            let buffers = [buffer, self.value(x), self.vector(bias)?, self.value(selection), self.value(out)];
            self.launch(index, rows, [stage; 2], &params, &buffers)?;
            self.last_launch().shares = n_experts as u32;
        }
        Ok(())
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
