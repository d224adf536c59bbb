//! The executable specification: every op in its plainest form.
//!
//! Principal type: [`Exact`]. Weights stay as the file has them and are decoded row by row by their format; everything
//! else is f32, with sums in f64 except dot products, which use [`LANES`] f32 partial sums. Must not use `simd`.

mod moe;
mod ops;
mod recurrent;

use super::elementwise;
use super::moe::ExpertMatMul;
use super::plan::{with_capacity, zeroed};
use super::recurrent::Recurrences;
use super::{Attention, Kernels, MatMul, Norm, row_of};
use crate::backend::{ModelPlan, Sequences};
use crate::error::Result;
use crate::model::graph::ValueId;
use crate::model::graph::{KvDecl, WeightDecl, WeightId, WeightKind};
use crate::model::spec::Activation;
use crate::quant::{self, Format};
use crate::tensor::DType;

/// Partial sums of a dot product: element `i` goes to sum `i % LANES`, and the sums are added pairwise. A fixed number
/// makes results independent of the machine's vector width.
pub(super) const LANES: usize = 16;

/// Weights, caches and scratch of the exact kernels.
pub(super) struct Exact {
    weights: Vec<FileWeight>,
    caches: Sequences<Vec<Cache>>,
    /// One decoded row of the widest matrix.
    row: Vec<f32>,
    /// Scores of one query, `[n_ctx]`.
    scores: Vec<f32>,
}

/// A weight in the layout of its file.
struct FileWeight {
    decl: WeightDecl,
    format: &'static Format,
    bytes: Vec<u8>,
    n_bytes: usize,
    /// The decoded row of a vector.
    vector: Vec<f32>,
}

/// Keys and values of one layer, `[n_ctx, n_kv_heads, head_dim]` each from the first step on.
struct Cache {
    decl: KvDecl,
    /// What keys and values are rounded to before they are kept: a head is whole blocks, filled up with zeros.
    format: &'static Format,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Exact {
    pub(super) fn new(plan: &ModelPlan) -> Result<Exact> {
        let weights = FileWeight::all(plan, 0);
        let caches = Sequences::new(vec![empty_caches(plan)]);
        let widest = widest_row(plan);
        let (row, scores) = (zeroed(widest, "workspace")?, zeroed(plan.n_ctx, "workspace")?);
        let mut exact = Exact { weights, caches, row, scores };
        exact.reserve(1)?;
        Ok(exact)
    }
}

fn empty_caches(plan: &ModelPlan) -> Vec<Cache> {
    let format = quant::format(plan.kv_cache.unwrap_or(DType::F32));
    let empty = |decl: &KvDecl| Cache { decl: *decl, format, k: Vec::new(), v: Vec::new() };
    plan.graph.kv.iter().map(empty).collect()
}

/// Elements of the longest row of any weight.
fn widest_row(plan: &ModelPlan) -> usize {
    plan.graph.weights.iter().map(|decl| decl.n_cols).max().unwrap_or(0)
}

impl FileWeight {
    /// The weights of `plan` from `first` on, with nothing in them.
    fn all(plan: &ModelPlan, first: usize) -> Vec<FileWeight> {
        let empty = |(decl, dtype): (&WeightDecl, &DType)| {
            let format = quant::format(*dtype);
            let n_bytes = decl.n_cols / format.block_len * format.block_bytes * decl.n_rows;
            FileWeight { decl: decl.clone(), format, bytes: Vec::new(), n_bytes, vector: Vec::new() }
        };
        plan.graph.weights.iter().zip(&plan.dtypes).skip(first).map(empty).collect()
    }

    /// Decodes row `index` into `row: [n_cols]`.
    fn decode(&self, index: usize, row: &mut [f32]) {
        let row_bytes = self.n_bytes / self.decl.n_rows;
        (self.format.dequant)(&self.bytes[index * row_bytes..][..row_bytes], row);
    }
}

impl Kernels for Exact {
    fn upload(&mut self, weight: WeightId, offset: u64, bytes: &[u8]) -> Result<()> {
        let weight = &mut self.weights[weight.0];
        if weight.bytes.is_empty() {
            weight.bytes = with_capacity(weight.n_bytes, "weights")?;
        }
        super::check_piece(&weight.decl, weight.bytes.len(), weight.n_bytes, offset, bytes)?;
        weight.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish_upload(&mut self) -> Result<()> {
        for weight in &mut self.weights {
            super::check_complete(&weight.decl, weight.bytes.len(), weight.n_bytes)?;
            if weight.decl.kind == WeightKind::Vector {
                let mut vector = vec![0.0; weight.decl.n_cols];
                weight.decode(0, &mut vector);
                weight.vector = vector;
            }
        }
        Ok(())
    }

    fn vector(&self, weight: WeightId) -> &[f32] {
        &self.weights[weight.0].vector
    }

    fn embed(&mut self, table: WeightId, tokens: &[u32], scale: f32, out: &mut [f32]) {
        let table = &self.weights[table.0];
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(table.decl.n_cols)) {
            table.decode(row_of(*token, table.decl.n_rows), row);
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn norm(&self, op: &Norm, x: &[f32], out: &mut [f32]) {
        let [weight, bias] = [op.weight, op.bias].map(|vector| vector.map(|vector| self.vector(vector)));
        ops::norm(op, weight, bias, x, out);
    }

    /// Each row of the weight is decoded once and used for all tokens.
    fn matmul(&mut self, op: &MatMul, _: ValueId, x: &[f32], out: &mut [f32]) {
        let weight = &self.weights[op.weight.0];
        let WeightDecl { n_cols, n_rows, .. } = weight.decl;
        let bias = op.bias.map(|bias| self.weights[bias.0].vector.as_slice());
        let row = &mut self.row[..n_cols];
        for index in 0..n_rows {
            weight.decode(index, row);
            let bias = bias.map_or(0.0, |bias| bias[index]);
            for (x, out) in x.chunks_exact(n_cols).zip(out.chunks_exact_mut(n_rows)) {
                let residual = if op.accumulate { out[index] } else { 0.0 };
                out[index] = (ops::dot(row, x) + bias) * op.scale + residual;
            }
        }
    }

    fn expert_matmul(&mut self, op: &ExpertMatMul, x: &[f32], selection: &[f32], out: &mut [f32]) {
        self.expert_products(op, x, selection, out);
    }

    fn select(&mut self, plan: &ModelPlan, sequence: usize) {
        self.caches.select(sequence, || empty_caches(plan));
    }

    fn reserve(&mut self, _: usize) -> Result<()> {
        let n_ctx = self.scores.len();
        for cache in self.caches.iter_mut().filter(|cache| cache.k.is_empty()) {
            let len = n_ctx * cache.decl.n_kv_heads * cache.decl.head_dim;
            (cache.k, cache.v) = (zeroed(len, "KV cache")?, zeroed(len, "KV cache")?);
        }
        Ok(())
    }

    fn write_kv(&mut self, kv: usize, pos: usize, k: &[f32], v: &[f32]) {
        let cache = &mut self.caches[kv];
        ops::round_heads(cache.format, cache.decl.head_dim, k, &mut cache.k[pos * k.len()..][..k.len()]);
        ops::round_heads(cache.format, cache.decl.head_dim, v, &mut cache.v[pos * v.len()..][..v.len()]);
    }

    fn attention(&mut self, op: &Attention, q: &[f32], out: &mut [f32]) {
        let Cache { decl, k, v, .. } = &self.caches[op.kv];
        let sinks = op.sinks.map(|sinks| self.weights[sinks.0].vector.as_slice());
        ops::attention(op, *decl, (k, v), sinks, q, &mut self.scores, out);
    }

    fn gated_activation(&self, activation: Activation, up: &[f32], out: &mut [f32]) {
        for (out, up) in out.iter_mut().zip(up) {
            *out = elementwise::activation(activation, *out) * elementwise::multiplier(activation, *up);
        }
    }

    fn activate(&self, activation: Activation, out: &mut [f32]) {
        out.iter_mut().for_each(|out| *out = elementwise::activation(activation, *out));
    }

    fn recurrences(&self) -> &'static Recurrences {
        &recurrent::RECURRENCES
    }

    fn replace_weights(&mut self, plan: &ModelPlan, n_kept: usize) -> Result<()> {
        self.row = zeroed(widest_row(plan), "workspace")?;
        self.weights.truncate(n_kept);
        self.weights.extend(FileWeight::all(plan, n_kept));
        Ok(())
    }

    fn written(&mut self, _: ValueId) {}

    fn poison(&mut self, pos: usize) {
        for cache in self.caches.iter_mut() {
            let width = cache.decl.n_kv_heads * cache.decl.head_dim;
            cache.k[pos * width..].fill(f32::NAN);
            cache.v[pos * width..].fill(f32::NAN);
        }
        self.row.fill(f32::NAN);
        self.scores.fill(f32::NAN);
    }

    fn memory_bytes(&self) -> u64 {
        let weights = self.weights.iter().map(|weight| weight.bytes.len() + 4 * weight.vector.len());
        let caches = self.caches.all().iter().flatten().map(|cache| 4 * (cache.k.len() + cache.v.len()));
        (weights.chain(caches).sum::<usize>() + 4 * (self.row.len() + self.scores.len())) as u64
    }
}
