//! Launches of recurrent ops: a lane or a workgroup walks all tokens of the step, and alone touches its part of the
//! state. Must not know wgpu.

use super::super::kernels::{ELEMENTWISE_LANES, Kernel, Variant};
use super::attention::bad_head;
use super::{Grid, Plan, Planner, flat, internal};
use crate::error::Result;
use crate::model::graph::{Op, Operand, Rows, StateId, ValueId, WeightId};

/// Widest head: a lane takes a column of its state.
const MAX_HEAD_DIM: usize = 256;

impl Plan {
    /// Bytes of all states.
    pub(in super::super) fn state_bytes(&self) -> u64 {
        self.states.iter().map(|state| self.buffers[*state].bytes).sum()
    }
}

impl Planner<'_> {
    /// Buffers of the states.
    pub(super) fn states(&mut self) {
        for (index, state) in self.model.graph.states.iter().enumerate() {
            let buffer = self.buffer(&format!("state {index}"), state.len as u64 * 4);
            self.plan.states.push(buffer);
        }
    }

    pub(super) fn recurrent(&mut self, index: usize, op: &Op) -> Result<()> {
        match *op {
            Op::TokenShift { x, state, out } => {
                let buffers = [self.value(x), self.state(state)?, self.value(out)];
                self.by_channel(index, Kernel::TokenShift, &[self.width(x)], &buffers)
            }
            Op::Wkv4 { k, v, decay, first, sums, max, out } => {
                let first_max = self.model.graph.states.get(max.0).map_or(0.0, |state| state.init);
                let buffers = [
                    self.value(k),
                    self.value(v),
                    self.vector(Some(decay))?,
                    self.vector(Some(first))?,
                    self.state(sums)?,
                    self.state(max)?,
                    self.value(out),
                ];
                self.by_channel(index, Kernel::Wkv4, &[self.width(out), first_max.to_bits()], &buffers)
            }
            Op::ShortConv { x, weight, bias, kernel, state, out } => {
                let params = [self.width(x), kernel as u32, u32::from(bias.is_some())];
                let (weight, bias) = (self.vector(Some(weight))?, self.vector(bias)?);
                let buffers = [self.value(x), weight, bias, self.state(state)?, self.value(out)];
                self.by_channel(index, Kernel::ShortConv, &params, &buffers)
            }
            Op::Wkv6 { .. } => self.wkv6(index, op),
            Op::Wkv7Keys { .. } | Op::Wkv7 { .. } | Op::Wkv7Bonus { .. } => self.wkv7(index, op),
            Op::GatedDelta { .. } => self.gated_delta(index, op),
            _ => Err(internal("an op without a kernel")),
        }
    }

    fn state(&self, id: StateId) -> Result<usize> {
        self.plan.states.get(id.0).copied().ok_or_else(|| internal("a state that the graph does not have"))
    }

    /// A lane for each column of the result, `params[0]` of them.
    fn by_channel(&mut self, index: usize, kernel: Kernel, params: &[u32], buffers: &[usize]) -> Result<()> {
        let grid = Grid { div: u32::MAX, ..flat(params[0].div_ceil(ELEMENTWISE_LANES)) };
        let stage = self.stage(Variant::plain(kernel), grid);
        self.launch(index, Rows::Tokens, [stage; 2], params, buffers)
    }

    /// A workgroup for each head, or for each head and token.
    fn by_head(
        &mut self,
        index: usize,
        kernel: Kernel,
        (n_heads, width, per_token): (usize, u32, bool),
        params: &[u32],
        buffers: &[usize],
    ) -> Result<()> {
        let head_dim = width as usize / n_heads.max(1);
        if head_dim == 0 || head_dim > MAX_HEAD_DIM {
            return Err(bad_head(head_dim));
        }
        let grid = Grid { div: if per_token { 1 } else { u32::MAX }, ..flat(n_heads as u32) };
        let stage = self.stage(Variant::by_head(kernel, head_dim as u32), grid);
        self.launch(index, Rows::Tokens, [stage; 2], params, buffers)
    }

    fn wkv6(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::Wkv6 { r, k, v, decay, first, n_heads, n_kv_heads, scale, state, out } = op else {
            return Err(internal("not a recurrence"));
        };
        let (constant, decay) = match decay {
            Operand::Value(decay) => (0, self.value(decay)),
            Operand::Vector(decay) => (1, self.vector(Some(decay))?),
        };
        let params =
            [n_heads as u32, n_kv_heads as u32, constant, u32::from(first.is_some()), scale.to_bits()];
        let buffers = [
            self.value(r),
            self.value(k),
            self.value(v),
            decay,
            self.vector(first)?,
            self.state(state)?,
            self.value(out),
        ];
        self.by_head(index, Kernel::Wkv6, (n_heads, self.width(out), false), &params, &buffers)
    }

    fn wkv7(&mut self, index: usize, op: &Op) -> Result<()> {
        let values = |planner: &Self, ids: &[ValueId]| -> Vec<usize> {
            ids.iter().map(|id| planner.value(*id)).collect()
        };
        let vector = |planner: &Self, id: WeightId| planner.vector(Some(id));
        match *op {
            Op::Wkv7Keys { k, rate, removal, replacement, n_heads, out } => {
                let mut buffers = values(self, &[k, rate]);
                buffers.extend([vector(self, removal)?, vector(self, replacement)?, self.value(out)]);
                let heads = (n_heads, self.width(k), true);
                self.by_head(index, Kernel::Wkv7Keys, heads, &[n_heads as u32], &buffers)
            }
            Op::Wkv7 { r, decay, keys, v, n_heads, state, out } => {
                let mut buffers = values(self, &[r, decay, keys, v]);
                buffers.extend([self.state(state)?, self.value(out)]);
                let heads = (n_heads, self.width(out), false);
                self.by_head(index, Kernel::Wkv7, heads, &[n_heads as u32], &buffers)
            }
            Op::Wkv7Bonus { x, r, keys, v, weight, n_heads, out } => {
                let in_place = x == out;
                let mut buffers = vec![if in_place { self.none } else { self.value(x) }];
                buffers.extend(values(self, &[r, keys, v]));
                buffers.extend([vector(self, weight)?, self.value(out)]);
                let params = [n_heads as u32, u32::from(in_place)];
                let heads = (n_heads, self.width(out), true);
                self.by_head(index, Kernel::Wkv7Bonus, heads, &params, &buffers)
            }
            _ => Err(internal("not a recurrence")),
        }
    }

    fn gated_delta(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::GatedDelta { qkv, alpha, beta, decay, dt_bias, n_k_heads, n_v_heads, tiled, state, out } =
            op
        else {
            return Err(internal("not a recurrence"));
        };
        let buffers = [
            self.value(qkv),
            self.value(alpha),
            self.value(beta),
            self.vector(Some(decay))?,
            self.vector(Some(dt_bias))?,
            self.state(state)?,
            self.value(out),
        ];
        let params = [n_k_heads as u32, n_v_heads as u32, u32::from(tiled)];
        self.by_head(index, Kernel::GatedDelta, (n_v_heads, self.width(out), false), &params, &buffers)
    }
}
