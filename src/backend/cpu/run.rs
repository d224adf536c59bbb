//! One op of a step: finds the operands' slices and hands them to the kernels.
//!
//! Principal type: [`Step`]. Must not know how an op is computed.

use super::plan::Workspace;
use super::recurrent::{Operands, States};
use super::rope::RopeTable;
use super::{Attention, CpuBackend, Kernels, MatMul, Norm, elementwise, moe, streams};
use crate::model::graph::{Binary, Graph, Op, Operand, Unary, ValueId, WeightId};

/// An op under way, the buffer that it writes apart from the others.
struct Step<'a> {
    graph: &'a Graph,
    kernels: &'a mut dyn Kernels,
    workspace: &'a mut Workspace,
    ropes: &'a [RopeTable],
    states: &'a mut States,
    tokens: &'a [u32],
    pos: usize,
    n_rows: usize,
    /// What the op writes; its buffer is taken out of the workspace.
    out_id: ValueId,
}

/// The operands of a recurrent op.
struct Found<'a> {
    graph: &'a Graph,
    kernels: &'a dyn Kernels,
    workspace: &'a Workspace,
    n_rows: usize,
}

impl Operands for Found<'_> {
    fn value(&self, id: ValueId) -> &[f32] {
        self.workspace.get(id, self.n_rows * self.graph.values[id.0].width)
    }

    fn vector(&self, id: WeightId) -> &[f32] {
        self.kernels.vector(id)
    }
}

impl CpuBackend {
    /// Runs one op, which writes `n_rows` rows.
    pub(super) fn run_op(&mut self, index: usize, tokens: &[u32], pos: usize, n_rows: usize) {
        let CpuBackend { plan, kernels, workspace, ropes, past, .. } = self;
        let graph = &plan.graph;
        let out_id = graph.ops[index].writes();
        let mut buffer = workspace.take(out_id);
        let out = &mut buffer[..n_rows * graph.values[out_id.0].width];
        let (kernels, states) = (kernels.as_mut(), &mut past.states);
        let mut step = Step { graph, kernels, workspace, ropes, states, tokens, pos, n_rows, out_id };
        step.run(&graph.ops[index], out);
        workspace.put(out_id, buffer);
    }
}

impl Step<'_> {
    fn run(&mut self, op: &Op, out: &mut [f32]) {
        match *op {
            Op::Embed { table, scale, .. } => self.kernels.embed(table, self.tokens, scale, out),
            Op::Norm { .. } => self.norm(op, out),
            Op::MatMul { .. } => self.matmul(op, out),
            Op::RopeKvWrite { .. } => self.rope_kv_write(op, out),
            Op::Attention { .. } => self.attention(op, out),
            Op::GatedActivation { .. } => self.gated_activation(op, out),
            Op::Map { x, f, .. } => self.map(x, f, out),
            Op::Combine { a, b, f, .. } => self.combine(a, b, f, out),
            Op::Lerp { x, other, mix, .. } => self.lerp(x, other, mix, out),
            Op::Columns { x, first, run, stride, .. } => self.columns(x, [first, run, stride], out),
            Op::Permute { x, index, .. } => {
                elementwise::permute(self.read(x), self.kernels.vector(index), out)
            }
            Op::AddPosition { x, table, .. } => self.add_position(x, table, out),
            Op::Route { .. }
            | Op::ExpertMatMul { .. }
            | Op::ExpertSum { .. }
            | Op::FusedGatedActivation { .. } => {
                moe::run(op, self.graph, self.kernels, self.workspace, self.n_rows, out);
            }
            Op::TakeOutputs { x, .. } => self.take_outputs(x, out),
            Op::StreamMix { .. } | Op::MatchMagnitude { .. } | Op::GaussianTopK { .. } => {
                self.streams(op, out)
            }
            _ => self.recurrent(op, out),
        }
    }

    fn width(&self, id: ValueId) -> usize {
        self.graph.values[id.0].width
    }

    /// The rows of a value; not of the one that is written.
    fn read(&self, id: ValueId) -> &[f32] {
        self.workspace.get(id, self.n_rows * self.width(id))
    }

    fn norm(&mut self, op: &Op, out: &mut [f32]) {
        let &Op::Norm { x, norm, group, weight, bias, add, .. } = op else {
            unreachable!("invariant: of run")
        };
        let mut scratch = std::mem::take(&mut self.workspace.scratch);
        let in_place = x == self.out_id;
        if in_place {
            scratch[..out.len()].copy_from_slice(out);
        }
        if let Some(add) = add.filter(|add| *add != self.out_id) {
            out.copy_from_slice(self.read(add));
        }
        let op = Norm { norm, group, weight, bias, accumulate: add.is_some() };
        let x = if in_place { &scratch[..out.len()] } else { self.workspace.get(x, out.len()) };
        self.kernels.norm(&op, x, out);
        self.workspace.scratch = scratch;
    }

    fn matmul(&mut self, op: &Op, out: &mut [f32]) {
        let &Op::MatMul { x, weight, bias, add, scale, .. } = op else { unreachable!("invariant: of run") };
        if let Some(add) = add.filter(|add| *add != self.out_id) {
            out.copy_from_slice(self.read(add));
        }
        let op = MatMul { weight, bias, accumulate: add.is_some(), scale };
        let x_len = self.n_rows * self.width(x);
        self.kernels.matmul(&op, x, self.workspace.get(x, x_len), out);
    }

    fn rope_kv_write(&mut self, op: &Op, out: &mut [f32]) {
        let &Op::RopeKvWrite { kv_rows, rope, q_scale, kv, .. } = op else {
            unreachable!("invariant: of run")
        };
        let head_dim = self.graph.kv[kv].head_dim;
        let rope = rope.map(|rope| &self.ropes[rope.0]);
        for (token, q) in out.chunks_exact_mut(self.width(self.out_id)).enumerate() {
            if let Some(rope) = rope {
                rope.rotate(token, q, head_dim);
            }
            if let Some(scale) = q_scale {
                let factor = scale.factor(self.pos + token);
                q.iter_mut().for_each(|q| *q *= factor);
            }
        }
        let Some((k_id, v)) = kv_rows else { return };
        // The keys' own buffer is rotated: nothing reads it afterwards but the cache.
        let mut k = self.workspace.take(k_id);
        let k_width = self.width(k_id);
        for token in 0..self.n_rows {
            let k = &mut k[token * k_width..][..k_width];
            if let Some(rope) = rope {
                rope.rotate(token, k, head_dim);
            }
            let v = &self.workspace.get(v, self.n_rows * k_width)[token * k_width..][..k_width];
            self.kernels.write_kv(kv, self.pos + token, k, v);
        }
        self.workspace.put(k_id, k);
        self.kernels.written(k_id);
    }

    fn attention(&mut self, op: &Op, out: &mut [f32]) {
        let &Op::Attention { q, kv, n_heads, scale, window, softcap, causal, sinks, .. } = op else {
            unreachable!("invariant: of run")
        };
        let (pos, n_tokens) = (self.pos, self.n_rows);
        let op = Attention { kv, n_heads, scale, window, softcap, causal, sinks, pos, n_tokens };
        self.kernels.attention(&op, self.workspace.get(q, out.len()), out);
    }

    fn gated_activation(&mut self, op: &Op, out: &mut [f32]) {
        let &Op::GatedActivation { gate, up, activation, .. } = op else { unreachable!("invariant: of run") };
        if gate != self.out_id {
            out.copy_from_slice(self.read(gate));
        }
        self.kernels.gated_activation(activation, self.read(up), out);
    }

    fn map(&mut self, x: ValueId, f: Unary, out: &mut [f32]) {
        self.copy(x, out);
        match f {
            Unary::Activation(activation) => self.kernels.activate(activation, out),
            _ => elementwise::map(f, out),
        }
    }

    /// The rows of `x` into the destination, where they may be already.
    fn copy(&self, x: ValueId, out: &mut [f32]) {
        if x != self.out_id {
            out.copy_from_slice(self.read(x));
        }
    }

    /// A value's rows, or the one row of a vector.
    fn operand(&self, operand: Operand) -> &[f32] {
        match operand {
            Operand::Value(value) => self.read(value),
            Operand::Vector(weight) => self.kernels.vector(weight),
        }
    }

    fn combine(&mut self, a: ValueId, b: Operand, f: Binary, out: &mut [f32]) {
        self.copy(a, out);
        elementwise::combine(f, self.operand(b), out);
    }

    fn lerp(&mut self, x: ValueId, other: ValueId, mix: Operand, out: &mut [f32]) {
        elementwise::lerp(self.read(x), self.read(other), self.operand(mix), out);
    }

    fn columns(&mut self, x: ValueId, runs: [usize; 3], out: &mut [f32]) {
        elementwise::columns(self.read(x), self.width(x), runs, self.width(self.out_id), out);
    }

    fn add_position(&mut self, x: ValueId, table: WeightId, out: &mut [f32]) {
        self.copy(x, out);
        let row = &mut self.workspace.scratch[..self.graph.weights[table.0].n_cols];
        for (pos, out) in (self.pos..).zip(out.chunks_exact_mut(row.len())) {
            self.kernels.embed(table, &[pos as u32], 1.0, row);
            elementwise::combine(Binary::Add, row, out);
        }
    }

    fn streams(&self, op: &Op, out: &mut [f32]) {
        let width = self.width(self.out_id);
        match *op {
            Op::StreamMix { ref streams, coefs, first, offset, add, .. } => {
                let streams = streams.iter().map(|stream| self.read(*stream));
                let coefs = (self.read(coefs), self.width(coefs));
                streams::stream_mix(streams, coefs, (first, offset), self.read(add), width, out);
            }
            Op::MatchMagnitude { x, like, .. } => {
                streams::match_magnitude(self.read(x), self.read(like), width, out);
            }
            Op::GaussianTopK { x, factor, .. } => streams::gaussian_top_k(self.read(x), factor, width, out),
            _ => unreachable!("invariant: of run"),
        }
    }

    fn recurrent(&mut self, op: &Op, out: &mut [f32]) {
        if let Op::Wkv7Bonus { x, .. } = *op {
            self.copy(x, out);
        }
        let Step { graph, kernels, workspace, n_rows, .. } = self;
        let found = Found { graph, kernels: &**kernels, workspace, n_rows: *n_rows };
        self.states.run(op, kernels.recurrences(), &found, out);
    }

    fn take_outputs(&mut self, x: ValueId, out: &mut [f32]) {
        let n_all = self.tokens.len() * self.width(x);
        out.copy_from_slice(&self.workspace.get(x, n_all)[n_all - out.len()..]);
    }
}
