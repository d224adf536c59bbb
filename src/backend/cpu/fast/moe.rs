//! Products with the chosen experts: tokens are gathered by expert, so that each expert's weights are read once a step.
//!
//! Principal type: [`Experts`]. Must not know how experts are chosen.

use super::activations::Activations;
use super::matmul::{Finish, Unpacked};
use super::product::{Scratch, product};
use super::weights::Weight;
use crate::backend::cpu::moe::ExpertMatMul;
use crate::backend::cpu::plan::zeroed;
use crate::error::Result;
use crate::model::graph::{Graph, Op, ValueId};

/// Tokens of one expert that are multiplied at once.
const RUN: usize = 64;

/// Scratch of the products with experts; empty in models without.
pub(super) struct Experts {
    order: Vec<usize>,
    activations: Activations,
    x: Vec<f32>,
    out: Vec<f32>,
}

impl Experts {
    /// For the products of `graph` in steps of up to `n_batch` tokens.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(graph: &Graph, n_batch: usize) -> Result<Experts> {
        const WHAT: &str = "workspace";
        let (mut n_used, mut n_cols, mut n_out) = (0, 0, 0);
        for op in &graph.ops {
            if let Op::ExpertMatMul { weight, selection, n_experts, .. } = op {
                let decl = &graph.weights[weight.0];
                n_used = n_used.max(graph.values[selection.0].width / 2);
                n_cols = n_cols.max(decl.n_cols);
                n_out = n_out.max(decl.n_rows / n_experts);
            }
        }
        Ok(Experts {
            order: zeroed(n_used * n_batch, WHAT)?,
            activations: Activations::new(n_cols, RUN)?,
            x: zeroed(RUN * n_cols, WHAT)?,
            out: zeroed(RUN * n_out, WHAT)?,
        })
    }

    /// [`Op::ExpertMatMul`]; `row` and `unpacked` are scratch as wide as the widest matrix.
    #[allow(clippy::too_many_arguments, reason = "a kernel with its scratch")]
    pub(super) fn products(
        &mut self,
        op: &ExpertMatMul,
        weight: &Weight,
        bias: Option<&[f32]>,
        (row, unpacked): (&mut [f32], &mut [Unpacked]),
        x: &[f32],
        selection: &[f32],
        out: &mut [f32],
    ) {
        let Experts { order, activations, x: run_x, out: run_out } = self;
        let (n_cols, n_out) = (op.n_cols, op.n_out);
        op.by_expert(selection, order);
        activations.forget_all();
        for same in order.chunk_by(|a, b| op.expert(selection, *a) == op.expert(selection, *b)) {
            let expert = op.expert(selection, same[0]);
            let bias = bias.map(|bias| &bias[expert * n_out..][..n_out]);
            let finish = Finish { bias, accumulate: false, scale: 1.0 };
            for pairs in same.chunks(RUN) {
                let scratch = Scratch { activations, row: &mut *row, unpacked: &mut *unpacked };
                if let [pair] = pairs {
                    let source = op.source_row(*pair);
                    let x = &x[source * n_cols..][..n_cols];
                    let out = &mut out[pair * n_out..][..n_out];
                    product(weight, expert, scratch, ValueId(source), x, &finish, out);
                    continue;
                }
                for (pair, to) in pairs.iter().zip(run_x.chunks_exact_mut(n_cols)) {
                    to.copy_from_slice(&x[op.source_row(*pair) * n_cols..][..n_cols]);
                }
                scratch.activations.forget_all();
                let (x, results) = (&run_x[..pairs.len() * n_cols], &mut run_out[..pairs.len() * n_out]);
                product(weight, expert, scratch, ValueId(usize::MAX), x, &finish, results);
                activations.forget_all();
                for (pair, from) in pairs.iter().zip(results.chunks_exact(n_out)) {
                    out[pair * n_out..][..n_out].copy_from_slice(from);
                }
            }
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.order.as_slice())
            + self.activations.memory_bytes()
            + size_of_val(self.x.as_slice())
            + size_of_val(self.out.as_slice())
    }
}
