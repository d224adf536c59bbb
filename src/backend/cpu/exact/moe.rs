//! Products with the chosen experts, row by row. Must not know how experts are chosen.

use super::{Exact, ops};
use crate::backend::cpu::moe::ExpertMatMul;

impl Exact {
    /// Each row of an expert is decoded once and used for all tokens that chose it.
    pub(super) fn expert_products(
        &mut self,
        op: &ExpertMatMul,
        x: &[f32],
        selection: &[f32],
        out: &mut [f32],
    ) {
        let weight = &self.weights[op.weight.0];
        let bias = op.bias.map(|bias| self.weights[bias.0].vector.as_slice());
        let row = &mut self.row[..op.n_cols];
        let mut order = Vec::new();
        op.by_expert(selection, &mut order);
        for pairs in order.chunk_by(|a, b| op.expert(selection, *a) == op.expert(selection, *b)) {
            let first = op.expert(selection, pairs[0]) * op.n_out;
            for index in 0..op.n_out {
                weight.decode(first + index, row);
                let bias = bias.map_or(0.0, |bias| bias[first + index]);
                for pair in pairs {
                    let x = &x[op.source_row(*pair) * op.n_cols..][..op.n_cols];
                    out[pair * op.n_out + index] = ops::dot(row, x) + bias;
                }
            }
        }
    }
}
