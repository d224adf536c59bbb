//! Launches of the ops that work on activations alone: norms, activations, choices of rows and columns.
//! Must not know wgpu.

use super::super::kernels::{ELEMENTWISE_LANES, Kernel, Variant};
use super::{Planner, flat, internal, outputs};
use crate::error::Result;
use crate::model::graph::{Op, Rows, ValueId};
use crate::model::spec::{Activation, NormKind};

impl Planner<'_> {
    pub(super) fn norm(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::Norm { x, norm, weight, bias, out, .. } = op else { return Err(internal("not a norm")) };
        let rows = self.rows(out);
        let params = [
            self.width(x),
            outputs(rows),
            u32::from(norm.kind == NormKind::Layer),
            u32::from(bias.is_some()),
            norm.eps.to_bits(),
        ];
        let buffers = [self.value(x), self.vector(weight)?, self.vector(bias)?, self.value(out)];
        let stage = self.stage(Variant::plain(Kernel::Norm), flat(1));
        self.launch(index, rows, [stage; 2], &params, &buffers)
    }

    pub(super) fn gated_activation(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::GatedActivation { gate, up, activation, out } = op else {
            return Err(internal("not an activation"));
        };
        if out == up {
            return Err(internal("an activation overwrites its multiplier"));
        }
        let rows = self.rows(out);
        let activation = match activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
            Activation::Gelu => 2,
        };
        let in_place = gate == out;
        let gate = if in_place { self.none } else { self.value(gate) };
        let params = [self.width(out), outputs(rows), activation, u32::from(in_place)];
        let grid = flat(self.width(out).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::GatedActivation), grid);
        self.launch(index, rows, [stage; 2], &params, &[gate, self.value(up), self.value(out)])
    }

    pub(super) fn take_outputs(&mut self, index: usize, x: ValueId, out: ValueId) -> Result<()> {
        self.plan.n_body = self.plan.n_body.min(self.plan.launches.len());
        let grid = flat(self.width(x).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::TakeOutputs), grid);
        let buffers = [self.value(x), self.value(out)];
        self.launch(index, Rows::Outputs, [stage; 2], &[self.width(x)], &buffers)
    }
}
