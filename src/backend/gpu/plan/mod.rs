//! From graph to launches: every buffer, every binding, every grid, decided before anything is allocated.
//! The ops' launches are in the files beside this one, by group.
//!
//! Principal type: [`Plan`]. Buffers and pipelines are indices, so a plan is plain data; must not know wgpu.

mod attention;
mod elementwise;
mod matmul;
mod moe;
mod recurrent;
mod streams;

use std::collections::HashMap;

use super::kernels::Variant;
use super::memory::{self, Part};
use crate::backend::ModelPlan;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, RopeId, Rows, ValueId, WeightId, WeightKind};
use crate::quant;

/// Sizes that trade speed for memory, or that tests make small; the defaults suit every device.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Most bytes of a weight in one buffer; the device's limits apply besides.
    pub max_part_bytes: u64,
    /// Grids over weight rows with more workgroups than this are folded into a second dimension.
    pub fold_workgroups: u32,
    /// Room for logits: so many rows are computed at once when all are wanted.
    pub logits_bytes: u64,
    /// Up to this many rows of activations go through the mat-vec kernel.
    pub few_rows: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            max_part_bytes: 1 << 30,
            fold_workgroups: MAX_WORKGROUPS,
            logits_bytes: 8 << 20,
            few_rows: 4,
        }
    }
}

/// Every WebGPU device allows so many workgroups in a dimension.
const MAX_WORKGROUPS: u32 = 65535;

/// Words of a launch's parameters, and the distance of two launches' parameters in bytes.
pub(super) const PARAM_WORDS: usize = 16;
pub(super) const PARAM_STRIDE: usize = 256;

/// Words of the step buffer before the token ids.
pub(super) const STEP_WORDS: usize = 4;

/// A buffer to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BufferSpec {
    pub(super) label: String,
    pub(super) bytes: u64,
}

/// Grid of a launch: `x` and `z` are fixed, `y` is `ceil(rows * mul / div)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) x: u32,
    pub(super) z: u32,
    pub(super) mul: u32,
    pub(super) div: u32,
}

/// One way to run a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// Index into [`Plan::variants`].
    pub(super) variant: usize,
    pub(super) grid: Grid,
}

/// One dispatch of a step.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// Index of the op it belongs to.
    pub(super) op: usize,
    /// Rows it is run for.
    pub(super) rows: Rows,
    /// For few rows and for many.
    pub(super) few: Stage,
    pub(super) many: Stage,
    pub(super) params: [u32; PARAM_WORDS],
    /// Buffers of the bindings from 1 on.
    pub(super) buffers: Vec<usize>,
}

/// Where a weight lives.
#[derive(Clone, Debug)]
pub(super) enum Home {
    /// As in the file, in parts, each behind the format's table.
    Matrix { row_bytes: u64, parts: Vec<(Part, usize)> },
    /// Decoded to f32 in one buffer.
    Vector { buffer: usize },
}

/// A rope table to compute.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) buffer: usize,
    pub(super) rope: RopeId,
}

/// Everything a backend makes at load.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) buffers: Vec<BufferSpec>,
    /// Pipelines, each once.
    pub(super) variants: Vec<Variant>,
    pub(super) launches: Vec<Launch>,
    /// Launches before this one run for the step's tokens, the others for the wanted outputs.
    pub(super) n_body: usize,
    pub(super) homes: Vec<Home>,
    pub(super) tables: Vec<Table>,
    /// Buffer of each value of the graph.
    pub(super) values: Vec<Option<usize>>,
    /// Buffers of the caches: K and V, layer by layer.
    pub(super) caches: Vec<(usize, usize)>,
    /// Buffers of the recurrent states.
    pub(super) states: Vec<usize>,
    pub(super) step: usize,
    pub(super) logits: usize,
    pub(super) n_vocab: usize,
    /// Rows of the largest embedding table.
    pub(super) n_embeddings: usize,
    /// Rows of logits computed at once.
    pub(super) n_outputs: usize,
}

impl Plan {
    /// Which buffers of `old` go on as buffers of this plan: those of the first `n_kept` weights, the caches and the
    /// tables; by index, the new one first.
    pub(super) fn kept_buffers(&self, old: &Plan, n_kept: usize) -> HashMap<usize, usize> {
        let mut kept = HashMap::new();
        for homes in self.homes.iter().zip(&old.homes).take(n_kept) {
            match homes {
                (Home::Matrix { parts, .. }, Home::Matrix { parts: old, .. }) => {
                    kept.extend(parts.iter().zip(old).map(|((_, new), (_, old))| (*new, *old)));
                }
                (Home::Vector { buffer }, Home::Vector { buffer: old }) => {
                    kept.insert(*buffer, *old);
                }
                _ => {}
            }
        }
        kept.extend(self.tables.iter().zip(&old.tables).map(|(new, old)| (new.buffer, old.buffer)));
        for (new, old) in self.caches.iter().zip(&old.caches) {
            kept.extend([(new.0, old.0), (new.1, old.1)]);
        }
        kept.retain(|new, old_index| self.buffers[*new].bytes == old.buffers[*old_index].bytes);
        kept
    }
}

pub(super) struct Planner<'a> {
    model: &'a ModelPlan,
    f16: bool,
    tuning: Tuning,
    none: usize,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// Plans `model`.
    /// # Errors
    /// `OutOfMemory` for a row that no binding holds; `InvalidValue` for heads that the kernels cannot take.
    pub(super) fn plan(model: &'a ModelPlan, f16: bool, tuning: Tuning) -> Result<Plan> {
        let mut planner = Planner { model, f16, tuning, none: 0, plan: Plan::default() };
        planner.none = planner.buffer("none", 16);
        planner.plan.step = planner.buffer("step", ((STEP_WORDS + model.n_batch) * 4) as u64);
        planner.outputs()?;
        planner.weights()?;
        planner.tables();
        planner.values_and_caches();
        planner.states();
        planner.plan.n_body = usize::MAX;
        for (index, op) in model.graph.ops.iter().enumerate() {
            planner.op(index, op)?;
        }
        let plan = &mut planner.plan;
        plan.n_body = plan.n_body.min(plan.launches.len());
        if plan.launches[plan.n_body..].iter().any(|launch| launch.rows == Rows::Tokens) {
            return Err(internal("an op after the choice of outputs works on all tokens"));
        }
        Ok(planner.plan)
    }

    fn buffer(&mut self, label: &str, bytes: u64) -> usize {
        // A binding must not be empty, and its size is a multiple of 4.
        let bytes = bytes.max(16).next_multiple_of(16);
        self.plan.buffers.push(BufferSpec { label: label.to_owned(), bytes });
        self.plan.buffers.len() - 1
    }

    /// How many rows of logits are computed at once.
    fn outputs(&mut self) -> Result<()> {
        let graph = &self.model.graph;
        let logits = graph.logits.ok_or_else(|| internal("the graph has no logits"))?;
        self.plan.n_vocab = graph.values[logits.0].width;
        let tables = graph.ops.iter().filter_map(|op| match op {
            Op::Embed { table, .. } => Some(graph.weights[table.0].n_rows),
            _ => None,
        });
        self.plan.n_embeddings = tables.max().unwrap_or(usize::MAX);
        let row = (self.plan.n_vocab as u64 * 4).max(1);
        let limit = self.tuning.logits_bytes.min(self.tuning.max_part_bytes);
        let fitting = usize::try_from(limit / row).unwrap_or(usize::MAX);
        self.plan.n_outputs = fitting.clamp(1, self.model.n_batch.max(1));
        Ok(())
    }

    fn weights(&mut self) -> Result<()> {
        let model = self.model;
        for (decl, dtype) in model.graph.weights.iter().zip(&model.dtypes) {
            if decl.kind == WeightKind::Vector {
                let buffer = self.buffer(&decl.name, decl.n_cols as u64 * 4);
                self.plan.homes.push(Home::Vector { buffer });
                continue;
            }
            let format = quant::format(*dtype);
            let row_bytes = format.row_bytes(decl.n_cols as u64).ok_or_else(|| {
                let message = format!("rows of {} elements are no whole {} blocks", decl.n_cols, format.name);
                Error::new(ErrorCode::WrongShape, message).at(decl.name.clone())
            })?;
            let table_bytes = size_of_val(format.table) as u64;
            let room = self.tuning.max_part_bytes.saturating_sub(table_bytes);
            let cut = memory::cut_rows(&decl.name, decl.n_rows as u64, row_bytes, room)?;
            let mut parts = Vec::with_capacity(cut.len());
            for part in cut {
                // A word more: reads at odd bytes take the next word too.
                let buffer = self.buffer(&decl.name, table_bytes + part.n_rows * row_bytes + 4);
                parts.push((part, buffer));
            }
            self.plan.homes.push(Home::Matrix { row_bytes, parts });
        }
        Ok(())
    }

    fn tables(&mut self) {
        for (index, rope) in self.model.graph.ropes.iter().enumerate() {
            let bytes = self.model.n_ctx as u64 * (rope.spec.n_dims / 2) as u64 * 8;
            let buffer = self.buffer(&format!("rope table {index}"), bytes);
            self.plan.tables.push(Table { buffer, rope: RopeId(index) });
        }
    }

    fn values_and_caches(&mut self) {
        let graph = &self.model.graph;
        let coloring = memory::color_values(graph, self.model.n_batch as u64, self.plan.n_outputs as u64);
        let slots: Vec<usize> = coloring
            .bytes
            .iter()
            .enumerate()
            .map(|(slot, bytes)| self.buffer(&format!("values {slot}"), *bytes))
            .collect();
        self.plan.values = coloring.slot.iter().map(|slot| slot.map(|slot| slots[slot])).collect();
        self.plan.logits = graph.logits.and_then(|logits| self.plan.values[logits.0]).unwrap_or(self.none);
        let element = if self.f16 { 2 } else { 4 };
        for (index, kv) in graph.kv.iter().enumerate() {
            let bytes = (self.model.n_ctx * kv.n_kv_heads * kv.head_dim.next_multiple_of(4)) as u64 * element;
            let k = self.buffer(&format!("k cache {index}"), bytes);
            let v = self.buffer(&format!("v cache {index}"), bytes);
            self.plan.caches.push((k, v));
        }
    }

    fn value(&self, value: ValueId) -> usize {
        self.plan.values[value.0].expect("invariant: every value that an op touches has a buffer")
    }

    fn width(&self, value: ValueId) -> u32 {
        self.model.graph.values[value.0].width as u32
    }

    fn rows(&self, value: ValueId) -> Rows {
        self.model.graph.values[value.0].rows
    }

    fn vector(&self, weight: Option<WeightId>) -> Result<usize> {
        match weight.map(|weight| &self.plan.homes[weight.0]) {
            None => Ok(self.none),
            Some(Home::Vector { buffer }) => Ok(*buffer),
            Some(Home::Matrix { .. }) => Err(internal("a matrix is used as a vector")),
        }
    }

    /// How a kernel gets at a residual: 0 none, 1 by the binding, 2 in its destination; and what to bind.
    fn addend(&self, add: Option<ValueId>, out: ValueId) -> (u32, usize) {
        match add {
            None => (0, self.none),
            Some(add) if add == out => (2, self.none),
            Some(add) => (1, self.value(add)),
        }
    }

    /// How a kernel gets at a source that may be its destination: whether it is, and what to bind.
    fn source(&self, x: ValueId, out: ValueId) -> (u32, usize) {
        if x == out { (1, self.none) } else { (0, self.value(x)) }
    }

    fn stage(&mut self, variant: Variant, grid: Grid) -> Stage {
        let found = self.plan.variants.iter().position(|other| *other == variant);
        let index = found.unwrap_or_else(|| {
            self.plan.variants.push(variant);
            self.plan.variants.len() - 1
        });
        Stage { variant: index, grid }
    }

    /// A grid of `n` workgroups along x, folded into z where there are too many, times one row in y.
    fn folded(&self, n: u32) -> Grid {
        let z = n.div_ceil(self.tuning.fold_workgroups).max(1);
        Grid { z, ..flat(n.div_ceil(z)) }
    }

    fn launch(
        &mut self,
        op: usize,
        rows: Rows,
        stages: [Stage; 2],
        params: &[u32],
        buffers: &[usize],
    ) -> Result<()> {
        let [few, many] = stages;
        for grid in [few.grid, many.grid] {
            let tallest = (self.model.n_batch as u64 * u64::from(grid.mul)).div_ceil(u64::from(grid.div));
            if tallest.max(u64::from(grid.x.max(grid.z))) > u64::from(MAX_WORKGROUPS) {
                let message = format!("steps of {} tokens are too large for this GPU", self.model.n_batch);
                return Err(Error::new(ErrorCode::LimitExceeded, message));
            }
        }
        let mut words = [0; PARAM_WORDS];
        words[..params.len()].copy_from_slice(params);
        let mut bindings = vec![self.plan.step];
        bindings.extend_from_slice(buffers);
        self.plan.launches.push(Launch { op, rows, few, many, params: words, buffers: bindings });
        Ok(())
    }

    fn op(&mut self, index: usize, op: &Op) -> Result<()> {
        match *op {
            Op::Embed { table, scale, out } => self.embed(index, table, scale, out),
            Op::Norm { .. } => self.norm(index, op),
            Op::MatMul { .. } => self.mat_mul(index, op),
            Op::RopeKvWrite { .. } => self.rope_kv_write(index, op),
            Op::Attention { .. } => self.attention(index, op),
            Op::GatedActivation { .. } => self.gated_activation(index, op),
            Op::Map { x, f, out } => self.map(index, x, f, out),
            Op::Combine { a, b, f, out } => self.combine(index, a, b, f, out),
            Op::Lerp { .. } => self.lerp(index, op),
            Op::Columns { x, first, out } => self.columns(index, x, first, out),
            Op::Permute { x, index: order, out } => self.permute(index, x, order, out),
            Op::AddPosition { x, table, out } => self.add_position(index, x, table, out),
            Op::TakeOutputs { x, out } => self.take_outputs(index, x, out),
            Op::Route { .. } => self.route(index, op),
            Op::ExpertMatMul { .. } => self.expert_mat_mul(index, op),
            Op::ExpertSum { .. } => self.expert_sum(index, op),
            Op::FusedGatedActivation { .. } => self.fused_gated_activation(index, op),
            _ => self.streams(index, op),
        }
    }
}

/// `n` workgroups along x, one row in y each.
fn flat(n: u32) -> Grid {
    Grid { x: n.max(1), z: 1, mul: 1, div: 1 }
}

fn outputs(rows: Rows) -> u32 {
    u32::from(rows == Rows::Outputs)
}

fn internal(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("the GPU plan cannot be made: {what}"))
}
