//! Launches of the ops that work on activations alone: norms, activations, choices of rows and columns.
//! Must not know wgpu.

use super::super::kernels::{ELEMENTWISE_LANES, Kernel, Variant};
use super::{Planner, flat, internal, outputs};
use crate::error::Result;
use crate::model::graph::{Binary, Half, Op, Operand, Rows, Unary, ValueId, WeightId};
use crate::model::spec::{Activation, NormKind};

impl Planner<'_> {
    pub(super) fn norm(&mut self, index: usize, op: &Op) -> Result<()> {
        self.norm_from(index, op, None)
    }

    /// The same, of the wanted outputs among the rows of `chosen` where that is given.
    pub(super) fn norm_from(&mut self, index: usize, op: &Op, chosen: Option<ValueId>) -> Result<()> {
        let &Op::Norm { x, norm, group, weight, bias, add, out } = op else {
            return Err(internal("not a norm"));
        };
        let rows = self.rows(out);
        let kind = match norm.kind {
            NormKind::Rms => 0,
            NormKind::Layer => 1,
            NormKind::L2 => 2,
        };
        let length = |vector: Option<WeightId>| {
            vector.map_or(0, |vector| self.model.graph.weights[vector.0].n_cols as u32)
        };
        let (in_place, x_buffer) = match chosen {
            Some(chosen) => (0, self.value(chosen)),
            None => self.source(x, out),
        };
        let (addend, addend_buffer) = self.addend(add, out);
        let params = [
            self.width(x),
            group as u32,
            outputs(rows),
            kind,
            length(weight),
            length(bias),
            in_place,
            addend,
            norm.eps.to_bits(),
            u32::from(chosen.is_some()),
        ];
        let vectors = [self.vector(weight)?, self.vector(bias)?];
        let buffers = [x_buffer, vectors[0], vectors[1], addend_buffer, self.value(out)];
        let n_groups = self.width(x) / (group as u32).max(1);
        let stage = self.stage(Variant::plain(Kernel::Norm), flat(n_groups));
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
        let (in_place, gate) = self.source(gate, out);
        let [activation, alpha, limit] = activation_params(activation);
        let params = [self.width(out), outputs(rows), activation, in_place, alpha, limit];
        let grid = flat(self.width(out).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::GatedActivation), grid);
        self.launch(index, rows, [stage; 2], &params, &[gate, self.value(up), self.value(out)])
    }

    pub(super) fn map(&mut self, index: usize, x: ValueId, f: Unary, out: ValueId) -> Result<()> {
        let (function, constant) = match f {
            Unary::Activation(Activation::ClampedSwiglu { .. }) => {
                return Err(internal("a clamped SwiGLU without a multiplier"));
            }
            Unary::Activation(activation) => (activation_params(activation)[0], 0.0),
            Unary::Tanh => (3, 0.0),
            Unary::Sigmoid => (4, 0.0),
            Unary::Relu2 => (5, 0.0),
            Unary::ExpNegExp => (6, 0.0),
            Unary::Softcap(cap) => (7, cap),
            Unary::Scale(factor) => (8, factor),
            Unary::Round(Half::F16) => (9, 0.0),
            Unary::Round(Half::Bf16) => (10, 0.0),
        };
        self.elementwise(index, (function, constant), x, None, None, out)
    }

    pub(super) fn combine(
        &mut self,
        index: usize,
        a: ValueId,
        b: Operand,
        f: Binary,
        out: ValueId,
    ) -> Result<()> {
        let function = match f {
            Binary::Add => 16,
            Binary::Sub => 17,
            Binary::Mul => 18,
        };
        self.elementwise(index, (function, 0.0), a, Some(b), None, out)
    }

    pub(super) fn lerp(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::Lerp { x, other, mix, out } = op else { return Err(internal("not a mix")) };
        self.elementwise(index, (19, 0.0), x, Some(Operand::Value(other)), Some(mix), out)
    }

    /// A launch of shaders/elementwise/elementwise.wgsl, by the number and constant of its function.
    fn elementwise(
        &mut self,
        index: usize,
        (function, constant): (u32, f32),
        a: ValueId,
        b: Option<Operand>,
        c: Option<Operand>,
        out: ValueId,
    ) -> Result<()> {
        let rows = self.rows(out);
        let (in_place, a) = self.source(a, out);
        let operand = |operand: Option<Operand>| match operand {
            Some(Operand::Value(value)) if value == out => Err(internal("an op overwrites its operand")),
            Some(Operand::Value(value)) => Ok((0, self.value(value))),
            Some(Operand::Vector(weight)) => {
                let len = self.model.graph.weights[weight.0].n_cols as u32;
                Ok((len, self.vector(Some(weight))?))
            }
            None => Ok((0, self.none)),
        };
        let ((b_len, b), (c_len, c)) = (operand(b)?, operand(c)?);
        let params = [self.width(out), outputs(rows), function, in_place, b_len, c_len, constant.to_bits()];
        let grid = flat(self.width(out).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::Elementwise), grid);
        self.launch(index, rows, [stage; 2], &params, &[a, b, c, self.value(out)])
    }

    pub(super) fn columns(&mut self, index: usize, x: ValueId, runs: [usize; 3], out: ValueId) -> Result<()> {
        let rows = self.rows(out);
        let [first, run, stride] = runs.map(|n| n as u32);
        let params = [self.width(out), outputs(rows), self.width(x), first, run, stride];
        let grid = flat(self.width(out).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::Columns), grid);
        self.launch(index, rows, [stage; 2], &params, &[self.value(x), self.value(out)])
    }

    pub(super) fn permute(&mut self, index: usize, x: ValueId, order: WeightId, out: ValueId) -> Result<()> {
        let rows = self.rows(out);
        let params = [self.width(out), outputs(rows)];
        let grid = flat(self.width(out).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::Permute), grid);
        let buffers = [self.value(x), self.vector(Some(order))?, self.value(out)];
        self.launch(index, rows, [stage; 2], &params, &buffers)
    }

    pub(super) fn take_outputs(&mut self, index: usize, x: ValueId, out: ValueId) -> Result<()> {
        let grid = flat(self.width(x).div_ceil(ELEMENTWISE_LANES));
        let stage = self.stage(Variant::plain(Kernel::TakeOutputs), grid);
        let buffers = [self.value(x), self.value(out)];
        self.launch(index, Rows::Outputs, [stage; 2], &[self.width(x)], &buffers)
    }
}

/// An activation's number in shaders/lib/activations.wgsl, and its constants.
pub(super) fn activation_params(activation: Activation) -> [u32; 3] {
    match activation {
        Activation::Silu => [0, 0, 0],
        Activation::GeluTanh => [1, 0, 0],
        Activation::Gelu => [2, 0, 0],
        Activation::ClampedSwiglu { alpha, limit } => [3, alpha.to_bits(), limit.to_bits()],
    }
}
