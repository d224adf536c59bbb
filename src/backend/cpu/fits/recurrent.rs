//! Whether the operands of a recurrent op fit together. Must not know how an op is computed.

use super::super::recurrent::MAX_HEAD_DIM;
use super::Fit;
use crate::model::graph::{Op, Operand, Rows, StateId, ValueId};

impl Fit<'_> {
    /// Whether a recurrent op fits; false for other ops.
    pub(super) fn recurrent(&self, op: &Op) -> bool {
        match *op {
            Op::TokenShift { x, state, out } => {
                x != out && self.tokens(x, out) && self.state(state, self.value(out).0)
            }
            Op::Wkv4 { k, v, decay, first, sums, max, out } => {
                let (width, _) = self.value(out);
                sums != max
                    && out != k
                    && out != v
                    && self.tokens(k, out)
                    && self.tokens(v, out)
                    && self.vector(Some(decay), width)
                    && self.vector(Some(first), width)
                    && self.state(sums, 2 * width)
                    && self.state(max, width)
            }
            Op::Wkv6 { .. } => self.wkv6(op),
            Op::Wkv7Keys { .. } | Op::Wkv7 { .. } | Op::Wkv7Bonus { .. } => self.wkv7(op),
            Op::ShortConv { x, weight, bias, kernel, state, out } => {
                let (width, _) = self.value(out);
                x != out
                    && kernel >= 2
                    && self.tokens(x, out)
                    && self.vector(Some(weight), width * kernel)
                    && self.vector(bias, width)
                    && self.state(state, width * (kernel - 1))
            }
            Op::GatedDelta { .. } => self.gated_delta(op),
            _ => false,
        }
    }

    fn tokens(&self, a: ValueId, b: ValueId) -> bool {
        self.alike(a, b) && self.value(a).1 == Rows::Tokens
    }

    fn state(&self, id: StateId, len: usize) -> bool {
        self.graph.states.get(id.0).is_some_and(|state| state.len == len)
    }

    /// Whether `width` is that many heads of a width that the kernels take, and the state a square for each.
    fn heads(&self, width: usize, n_heads: usize, state: Option<StateId>) -> bool {
        n_heads > 0
            && width.is_multiple_of(n_heads)
            && (1..=MAX_HEAD_DIM).contains(&(width / n_heads))
            && state.is_none_or(|state| self.state(state, width * (width / n_heads)))
    }

    fn wkv6(&self, op: &Op) -> bool {
        let &Op::Wkv6 { r, k, v, decay, first, n_heads, n_kv_heads, state, out, .. } = op else {
            return false;
        };
        let (width, _) = self.value(out);
        self.tokens(r, out)
            && self.heads(width, n_heads, Some(state))
            && n_kv_heads > 0
            && n_heads.is_multiple_of(n_kv_heads)
            && self.value(k) == (width / n_heads * n_kv_heads, Rows::Tokens)
            && self.alike(k, v)
            && ![r, k, v].contains(&out)
            && match decay {
                Operand::Value(decay) => decay != out && self.alike(decay, out),
                Operand::Vector(decay) => self.vector(Some(decay), width),
            }
            && self.vector(first, width)
    }

    fn wkv7(&self, op: &Op) -> bool {
        match *op {
            Op::Wkv7Keys { k, rate, removal, replacement, n_heads, out } => {
                let (width, _) = self.value(k);
                self.tokens(k, rate)
                    && self.heads(width, n_heads, None)
                    && self.vector(Some(removal), width)
                    && self.vector(Some(replacement), width)
                    && self.value(out) == (3 * width, Rows::Tokens)
                    && ![k, rate].contains(&out)
            }
            Op::Wkv7 { r, decay, keys, v, n_heads, state, out } => {
                let (width, _) = self.value(out);
                [r, decay, v].iter().all(|id| *id != out && self.tokens(*id, out))
                    && self.value(keys) == (3 * width, Rows::Tokens)
                    && self.heads(width, n_heads, Some(state))
            }
            Op::Wkv7Bonus { x, r, keys, v, weight, n_heads, out } => {
                let (width, _) = self.value(out);
                [r, v].iter().all(|id| *id != out && self.tokens(*id, out))
                    && self.tokens(x, out)
                    && self.value(keys) == (3 * width, Rows::Tokens)
                    && self.heads(width, n_heads, None)
                    && self.vector(Some(weight), width)
            }
            _ => false,
        }
    }

    fn gated_delta(&self, op: &Op) -> bool {
        let &Op::GatedDelta { qkv, alpha, beta, decay, dt_bias, n_k_heads, n_v_heads, state, out, .. } = op
        else {
            return false;
        };
        let (width, rows) = self.value(out);
        let gates = (n_v_heads, Rows::Tokens);
        rows == Rows::Tokens
            && ![qkv, alpha, beta].contains(&out)
            && self.heads(width, n_v_heads, Some(state))
            && n_k_heads > 0
            && n_v_heads.is_multiple_of(n_k_heads)
            && self.value(qkv) == (width / n_v_heads * (2 * n_k_heads + n_v_heads), Rows::Tokens)
            && self.value(alpha) == gates
            && self.value(beta) == gates
            && self.vector(Some(decay), n_v_heads)
            && self.vector(Some(dt_bias), n_v_heads)
    }
}
