//! The kernels that users run: repacked weights, integer dots, a KV cache of f16 or of what was asked for.
//!
//! Principal type: [`Fast`]. What an op computes is said by `exact`; these kernels differ by rounding only. All of
//! them are written on the vectors of `simd`, and allocate nothing in a step.

mod activations;
mod attention;
mod cache;
mod codes;
mod elementwise;
mod floats;
mod matmul;
mod moe;
mod panel;
mod product;
mod recurrent;
mod weights;

use super::moe::ExpertMatMul;
use super::plan::zeroed;
use super::recurrent::Recurrences;
use super::{Attention, Kernels, MatMul, Norm, row_of};
use crate::backend::{ModelPlan, Sequences};
use crate::error::Result;
use crate::model::graph::{KvDecl, Op, ValueId, WeightId, WeightKind};
use crate::model::spec::Activation;
use crate::tensor::DType;
use activations::{Activations, BLOCK};
use attention::Scratch;
use cache::Cache;
use matmul::{Finish, Unpacked};
use moe::Experts;
use product::{Scratch as ProductScratch, product};
use weights::{Store, Weight};

/// Weights, caches and scratch of the fast kernels.
pub(super) struct Fast {
    weights: Vec<Weight>,
    caches: Sequences<Vec<Cache>>,
    activations: Activations,
    scratch: Scratch,
    experts: Experts,
    /// Unpacked panels of the widest matrix.
    unpacked: Vec<Unpacked>,
    /// One decoded row of the widest matrix.
    row: Vec<f32>,
}

impl Fast {
    pub(super) fn new(plan: &ModelPlan) -> Result<Fast> {
        let weights = empty_weights(plan);
        let mut caches = empty_caches(plan);
        caches.iter_mut().try_for_each(|cache| cache.reserve(1))?;
        let widest = widest_matrix(plan);
        Ok(Fast {
            activations: Activations::new(widest, plan.n_batch)?,
            scratch: Scratch::new(&caches)?,
            experts: Experts::new(&plan.graph, plan.n_batch)?,
            unpacked: zeroed(widest.div_ceil(BLOCK), "workspace")?,
            row: zeroed(widest, "workspace")?,
            weights,
            caches: Sequences::new(vec![caches]),
        })
    }
}

/// Bytes that each weight of `plan` will take.
pub(super) fn weight_bytes(plan: &ModelPlan) -> Vec<u64> {
    empty_weights(plan).iter().map(Weight::packed_bytes).collect()
}

/// The format of the KV cache of `plan`.
fn kv_format(plan: &ModelPlan) -> DType {
    plan.kv_cache.unwrap_or(DType::F16)
}

/// The KV cache of a sequence, without a page.
fn empty_caches(plan: &ModelPlan) -> Vec<Cache> {
    let cache = |decl: &KvDecl| Cache::new(kv_format(plan), *decl, plan.n_ctx, plan.n_kept(decl));
    plan.graph.kv.iter().map(cache).collect()
}

/// Bytes that a KV cache of `plan` takes.
pub(super) fn kv_bytes(plan: &ModelPlan) -> u64 {
    plan.graph.kv.iter().map(|decl| Cache::bytes(kv_format(plan), decl, plan.n_ctx, plan.n_kept(decl))).sum()
}

/// The weights of `plan` with nothing in them.
fn empty_weights(plan: &ModelPlan) -> Vec<Weight> {
    let mut n_sections = vec![1; plan.graph.weights.len()];
    for op in &plan.graph.ops {
        if let Op::ExpertMatMul { weight, n_experts, .. } = op {
            n_sections[weight.0] = *n_experts;
        }
    }
    let decls = plan.graph.weights.iter().zip(&plan.dtypes).zip(n_sections);
    decls.map(|((decl, dtype), n_sections)| Weight::new(decl, *dtype, n_sections)).collect()
}

/// Elements of the longest row of any matrix.
fn widest_matrix(plan: &ModelPlan) -> usize {
    let matrices = plan.graph.weights.iter().filter(|decl| decl.kind != WeightKind::Vector);
    matrices.map(|decl| decl.n_cols).max().unwrap_or(0)
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
            table.decode_row(row_of(*token, table.decl.n_rows), row);
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn norm(&self, op: &Norm, x: &[f32], out: &mut [f32]) {
        let [weight, bias] = [op.weight, op.bias].map(|vector| vector.map(|vector| self.vector(vector)));
        elementwise::norm(op, weight, bias, x, out);
    }

    fn matmul(&mut self, op: &MatMul, x_id: ValueId, x: &[f32], out: &mut [f32]) {
        let bias = op.bias.map(|bias| vector(&self.weights, bias));
        let finish = Finish { bias, accumulate: op.accumulate, scale: op.scale };
        let Fast { activations, row, unpacked, .. } = self;
        let scratch = ProductScratch { activations, row, unpacked };
        product(&self.weights[op.weight.0], 0, scratch, x_id, x, &finish, out);
    }

    fn expert_matmul(&mut self, op: &ExpertMatMul, x: &[f32], selection: &[f32], out: &mut [f32]) {
        let weight = &self.weights[op.weight.0];
        let bias = op.bias.map(|bias| vector(&self.weights, bias));
        let scratch = (self.row.as_mut_slice(), self.unpacked.as_mut_slice());
        self.experts.products(op, weight, bias, scratch, x, selection, out);
    }

    fn select(&mut self, plan: &ModelPlan, sequence: usize) {
        self.caches.select(sequence, || empty_caches(plan));
    }

    fn reserve(&mut self, end: usize) -> Result<()> {
        self.caches.iter_mut().try_for_each(|cache| cache.reserve(end))
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

    fn replace_weights(&mut self, plan: &ModelPlan, n_kept: usize) -> Result<()> {
        let widest = widest_matrix(plan);
        self.activations = Activations::new(widest, plan.n_batch)?;
        self.unpacked = zeroed(widest.div_ceil(BLOCK), "workspace")?;
        self.row = zeroed(widest, "workspace")?;
        self.weights.truncate(n_kept);
        self.weights.extend(empty_weights(plan).into_iter().skip(n_kept));
        Ok(())
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
        let caches = self.caches.all().iter().flatten().map(Cache::memory_bytes);
        let scratch = [
            self.activations.memory_bytes(),
            self.scratch.memory_bytes(),
            self.experts.memory_bytes(),
            size_of_val(self.unpacked.as_slice()),
            size_of_val(self.row.as_slice()),
        ];
        weights.chain(caches).chain(scratch).sum::<usize>() as u64
    }
}
