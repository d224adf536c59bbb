//! The kernels that users run: repacked weights, integer dots, f16 KV cache.
//!
//! Principal type: [`Fast`]. What an op computes is said by `exact`; these kernels differ by rounding only. All of
//! them are written on the vectors of `simd`, and allocate nothing in a step.

mod activations;
mod attention;
mod elementwise;
mod floats;
mod matmul;
mod panel;
mod recurrent;
mod weights;

use super::plan::zeroed;
use super::recurrent::Recurrences;
use super::{Attention, Kernels, MatMul, Norm};
use crate::backend::ModelPlan;
use crate::error::Result;
use crate::model::graph::{ValueId, WeightDecl, WeightId, WeightKind};
use crate::model::spec::Activation;
use activations::{Activations, BLOCK};
use attention::{Cache, Scratch};
use matmul::{Finish, Unpacked};
use weights::{Store, Weight};

/// Weights, caches and scratch of the fast kernels.
pub(super) struct Fast {
    weights: Vec<Weight>,
    caches: Vec<Cache>,
    activations: Activations,
    scratch: Scratch,
    /// Unpacked panels of the widest matrix.
    unpacked: Vec<Unpacked>,
    /// One decoded row of the widest matrix.
    row: Vec<f32>,
}

impl Fast {
    pub(super) fn new(plan: &ModelPlan) -> Result<Fast> {
        let decls = plan.graph.weights.iter().zip(&plan.dtypes);
        let weights: Vec<Weight> = decls.map(|(decl, dtype)| Weight::new(decl, *dtype)).collect();
        let caches = plan.graph.kv.iter().map(|decl| Cache::new(*decl, plan.n_ctx));
        let caches = caches.collect::<Result<Vec<_>>>()?;
        let matrices = weights.iter().filter(|weight| weight.decl.kind != WeightKind::Vector);
        let widest = matrices.map(|weight| weight.decl.n_cols).max().unwrap_or(0);
        Ok(Fast {
            activations: Activations::new(widest, plan.n_batch)?,
            scratch: Scratch::new(&caches)?,
            unpacked: zeroed(widest.div_ceil(BLOCK), "workspace")?,
            row: zeroed(widest, "workspace")?,
            weights,
            caches,
        })
    }
}

/// The f32 content of a vector.
fn vector(weights: &[Weight], id: WeightId) -> &[f32] {
    match &weights[id.0].store {
        Store::F32(values) => values,
        _ => unreachable!("invariant: vectors are stored as f32"),
    }
}

impl Kernels for Fast {
    fn upload(&mut self, weight: WeightId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.weights[weight.0].upload(offset, bytes)
    }

    fn finish_upload(&mut self) -> Result<()> {
        self.weights.iter_mut().try_for_each(Weight::finish)
    }

    fn vector(&self, weight: WeightId) -> &[f32] {
        vector(&self.weights, weight)
    }

    fn embed(&mut self, table: WeightId, tokens: &[u32], scale: f32, out: &mut [f32]) {
        let table = &self.weights[table.0];
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(table.decl.n_cols)) {
            table.decode_row(*token as usize, row);
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn norm(&self, op: &Norm, x: &[f32], out: &mut [f32]) {
        let [weight, bias] = [op.weight, op.bias].map(|vector| vector.map(|vector| self.vector(vector)));
        elementwise::norm(op, weight, bias, x, out);
    }

    fn matmul(&mut self, op: &MatMul, x_id: ValueId, x: &[f32], out: &mut [f32]) {
        let weight = &self.weights[op.weight.0];
        let WeightDecl { n_cols, n_rows, .. } = weight.decl;
        let bias = op.bias.map(|bias| vector(&self.weights, bias));
        let finish = Finish { bias, accumulate: op.accumulate, scale: op.scale };
        let activations = &mut self.activations;
        let (row, unpacked) = (&mut self.row[..n_cols], &mut self.unpacked);
        match &weight.store {
            Store::Panel4(blocks) => {
                activations.set(x_id, x, n_cols);
                matmul::panels(blocks, n_cols, activations, unpacked, n_rows, &finish, out);
            }
            Store::Panel4Halves(blocks) => {
                activations.set(x_id, x, n_cols);
                matmul::panels(blocks, n_cols, activations, unpacked, n_rows, &finish, out);
            }
            Store::Panel8(blocks) => {
                activations.set(x_id, x, n_cols);
                matmul::panels(blocks, n_cols, activations, unpacked, n_rows, &finish, out);
            }
            Store::Panel8Offset(blocks) => {
                activations.set(x_id, x, n_cols);
                matmul::panels(blocks, n_cols, activations, unpacked, n_rows, &finish, out);
            }
            Store::Panel8Halves(blocks) => {
                activations.set(x_id, x, n_cols);
                matmul::panels(blocks, n_cols, activations, unpacked, n_rows, &finish, out);
            }
            Store::F32(values) => {
                let decode = |index: usize, row: &mut [f32]| {
                    row.copy_from_slice(&values[index * n_cols..][..n_cols]);
                };
                floats::float_rows(decode, row, x, n_rows, &finish, out);
            }
            Store::F16(values) => {
                let decode = |index: usize, row: &mut [f32]| {
                    floats::decode_f16(&values[index * n_cols..][..n_cols], row);
                };
                floats::float_rows(decode, row, x, n_rows, &finish, out);
            }
            Store::Bf16(values) => {
                let decode = |index: usize, row: &mut [f32]| {
                    floats::decode_bf16(&values[index * n_cols..][..n_cols], row);
                };
                floats::float_rows(decode, row, x, n_rows, &finish, out);
            }
        }
    }

    fn write_kv(&mut self, kv: usize, pos: usize, k: &[f32], v: &[f32]) {
        self.caches[kv].write(pos, k, v);
    }

    fn attention(&mut self, op: &Attention, q: &[f32], out: &mut [f32]) {
        let sinks = op.sinks.map(|sinks| vector(&self.weights, sinks));
        self.scratch.attention(op, sinks, &self.caches[op.kv], q, out);
    }

    fn gated_activation(&self, activation: Activation, up: &[f32], out: &mut [f32]) {
        elementwise::gated_activation(activation, up, out);
    }

    fn activate(&self, activation: Activation, out: &mut [f32]) {
        elementwise::activate(activation, out);
    }

    fn recurrences(&self) -> &'static Recurrences {
        &recurrent::RECURRENCES
    }

    fn written(&mut self, value: ValueId) {
        self.activations.forget(value);
    }

    fn poison(&mut self, pos: usize) {
        self.caches.iter_mut().for_each(|cache| cache.poison(pos));
        self.scratch.poison();
        self.row.fill(f32::NAN);
    }

    fn memory_bytes(&self) -> u64 {
        let weights = self.weights.iter().map(Weight::memory_bytes);
        let caches = self.caches.iter().map(Cache::memory_bytes);
        let scratch = [
            self.activations.memory_bytes(),
            self.scratch.memory_bytes(),
            size_of_val(self.unpacked.as_slice()),
            size_of_val(self.row.as_slice()),
        ];
        weights.chain(caches).chain(scratch).sum::<usize>() as u64
    }
}
