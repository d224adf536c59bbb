//! From graph to launches: every buffer, every binding, every grid, decided before anything is allocated.
//! The ops' launches are in the files beside this one, by group.
//!
//! Principal type: [`Plan`]. Buffers and pipelines are indices, so a plan is plain data; must not know wgpu.

mod attention;
mod elementwise;
mod fuse;
mod fused;
mod launch;
mod matmul;
mod moe;
mod recurrent;
mod sample;
mod streams;
mod tuning;
mod weights;

use std::collections::HashMap;

use self::fuse::{Bundle, Fusions};
use self::launch::{Grid, KeyRuns, Launch, Sequence, Stage};
pub(super) use self::sample::{Choosers, TOP_WORDS, limit_words, sampling_words};
pub use self::tuning::Tuning;
use super::kernels::{Kernel, KvFormat, MatVecShape, Variant, X_ROWS};
use super::memory::{self, Part};
use crate::backend::ModelPlan;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, RopeId, Rows, ValueId, WeightId};

/// Every WebGPU device allows so many workgroups in a dimension.
pub(super) const MAX_WORKGROUPS: u32 = 65535;

/// Words of a launch's parameters, and the distance of two launches' parameters in bytes.
pub(super) const PARAM_WORDS: usize = 16;
pub(super) const PARAM_STRIDE: usize = 256;

/// Words of the step buffer before the token ids.
pub(super) const STEP_WORDS: usize = 5;

/// Steps of one submit at most, each with the token that the one before chose.
pub(super) const MAX_CHOSEN: usize = 16;

/// Where a run of a buffer may begin that is bound by itself, on every device.
const BINDING_ALIGNMENT: u64 = 256;

/// A buffer to make, or a run of an earlier one that is written and bound by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BufferSpec {
    pub(super) label: String,
    pub(super) bytes: u64,
    pub(super) place: Place,
}

/// Where a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By itself.
    Own,
    /// In a buffer, from a byte on.
    Run(usize, u64),
    /// In the cache of a layer, as its keys (0) or values (1): it grows up to its bytes.
    Cache(usize, usize),
}

/// Where a weight lives.
#[derive(Clone, Debug)]
pub(super) enum Home {
    /// In parts, each behind the format's table; blocks are numbered within their part.
    Matrix { row_blocks: u32, parts: Vec<(Part, usize)> },
    /// Decoded to f32 in one buffer.
    Vector { buffer: usize },
}

/// A rope table to compute.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) buffer: usize,
    pub(super) rope: RopeId,
}

/// Keys and values of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheSpec {
    pub(super) k: usize,
    pub(super) v: usize,
    /// Bytes of the keys, or values, of a position.
    pub(super) position_bytes: usize,
}

/// Everything a backend makes at load.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) buffers: Vec<BufferSpec>,
    /// Pipelines, each once.
    pub(super) variants: Vec<Variant>,
    pub(super) launches: Vec<Launch>,
    /// Every op by itself.
    pub(super) plain: Sequence,
    /// For steps of few tokens: several ops in one launch where that can be.
    pub(super) fused: Sequence,
    /// What chooses the next token, to follow a step of one output.
    pub(super) choosers: Choosers,
    /// Weights that share a buffer.
    pub(super) bundles: Vec<Bundle>,
    pub(super) homes: Vec<Home>,
    pub(super) tables: Vec<Table>,
    /// Buffer of each value of the graph.
    pub(super) values: Vec<Option<usize>>,
    /// Layer by layer.
    pub(super) caches: Vec<CacheSpec>,
    /// Positions that caches grow by, and up to.
    page: usize,
    n_ctx: usize,
    /// Buffers of the recurrent states.
    pub(super) states: Vec<usize>,
    pub(super) step: usize,
    /// Partial sums of attention in runs of keys, for the layer that needs most.
    pub(super) partials: usize,
    /// Pairs of token and chosen expert by expert, for the layer that needs most; see shaders/moe/group_pairs.wgsl.
    pub(super) groups: usize,
    pub(super) logits: usize,
    pub(super) n_vocab: usize,
    /// Rows of the largest embedding table.
    pub(super) n_embeddings: usize,
    /// Rows of logits computed at once.
    pub(super) n_outputs: usize,
}

impl Plan {
    /// The buffers that are neither runs of others nor caches.
    pub(super) fn own_buffers(&self) -> impl Iterator<Item = &BufferSpec> {
        self.buffers.iter().filter(|buffer| buffer.place == Place::Own)
    }

    /// The layer whose cache a buffer is.
    pub(super) fn layer_of(&self, buffer: usize) -> Option<usize> {
        match self.buffers[buffer].place {
            Place::Cache(layer, _) => Some(layer),
            _ => None,
        }
    }

    /// Positions to make room for where `end` are needed and there is room for `held`: whole pages, and a quarter more
    /// than before, so that all copies of a text together are a small multiple of it.
    pub(super) fn grown(&self, held: usize, end: usize) -> usize {
        end.max(held + held / 4).next_multiple_of(self.page).min(self.n_ctx)
    }

    /// Bytes of a layer's keys, or values, with room for `n` positions or for all that it keeps.
    pub(super) fn cache_bytes(&self, layer: usize, n: usize) -> u64 {
        let CacheSpec { k, position_bytes, .. } = self.caches[layer];
        whole_words(n as u64 * position_bytes as u64).min(self.buffers[k].bytes)
    }

    /// Where a buffer's first byte stands in what was allocated for it.
    pub(super) fn byte_of(&self, buffer: usize) -> u64 {
        self.within(buffer).map_or(0, |(_, byte)| byte)
    }

    /// The buffer that one is a run of, and the byte where it begins.
    pub(super) fn within(&self, buffer: usize) -> Option<(usize, u64)> {
        match self.buffers[buffer].place {
            Place::Run(parent, byte) => Some((parent, byte)),
            _ => None,
        }
    }

    /// The launches of a step of `n_tokens`, of which up to `few_rows` are few.
    pub(super) fn sequence(&self, n_tokens: usize, few_rows: usize) -> &Sequence {
        if n_tokens <= few_rows { &self.fused } else { &self.plain }
    }

    /// Forgets the variants that no sequence comes to, so that they are not compiled: launches of the plain sequence
    /// for few tokens, where that is not the fused one too.
    fn leave_out_unused(&mut self) {
        let fused: std::collections::HashSet<usize> = self.fused.launches.iter().copied().collect();
        for (index, launch) in self.launches.iter_mut().enumerate() {
            if launch.rows == Rows::Tokens && !fused.contains(&index) {
                (launch.one, launch.few) = (launch.many, launch.many);
            }
        }
        let mut kept: Vec<Variant> = Vec::new();
        for stage in
            self.launches.iter_mut().flat_map(|launch| [&mut launch.one, &mut launch.few, &mut launch.many])
        {
            let variant = self.variants[stage.variant];
            let found = kept.iter().position(|other| *other == variant);
            stage.variant = found.unwrap_or_else(|| {
                kept.push(variant);
                kept.len() - 1
            });
        }
        self.variants = kept;
    }

    /// Which buffers of `old` go on as buffers of this plan: those of the first `n_kept` weights and the tables; by index,
    /// the new one first.
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
        let parents: Vec<(usize, usize)> = kept
            .iter()
            .filter_map(|(new, old_index)| Some((self.within(*new)?.0, old.within(*old_index)?.0)))
            .collect();
        kept.extend(parents);
        kept.extend(self.tables.iter().zip(&old.tables).map(|(new, old)| (new.buffer, old.buffer)));
        kept.retain(|new, old_index| self.buffers[*new].bytes == old.buffers[*old_index].bytes);
        kept
    }
}

pub(super) struct Planner<'a> {
    model: &'a ModelPlan,
    f16: bool,
    kv: KvFormat,
    tuning: Tuning,
    none: usize,
    /// The choice of experts that is grouped at this place, and in tiles of how many pairs.
    grouped: Option<(ValueId, u32)>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// Plans `model`; weights that `bundles` lists share a buffer as they say and no others do, where it is given.
    /// # Errors
    /// `OutOfMemory` for a row that no binding holds; `InvalidValue` for heads that the kernels cannot take.
    pub(super) fn plan(
        model: &'a ModelPlan,
        f16: bool,
        tuning: Tuning,
        bundles: Option<Vec<Bundle>>,
    ) -> Result<Plan> {
        let kv = KvFormat::of(model.kv_cache, f16);
        let mut planner = Planner { model, f16, kv, tuning, none: 0, grouped: None, plan: Plan::default() };
        (planner.plan.page, planner.plan.n_ctx) = (tuning.page, model.n_ctx);
        planner.none = planner.buffer("none", 16);
        planner.plan.step = planner.buffer("step", ((STEP_WORDS + model.n_batch) * 4) as u64);
        planner.outputs()?;
        let fits = |weights: &[WeightId]| planner.fits_one_buffer(weights);
        let fusions = match tuning.fuse {
            true => Fusions::find(model, &fits, bundles),
            false => Fusions::none(&model.graph, bundles.unwrap_or_default()),
        };
        planner.plan.bundles.clone_from(&fusions.bundles);
        planner.weights()?;
        planner.tables();
        planner.values_and_caches(&fusions);
        planner.states();
        planner.plan.partials = planner.buffer("attention runs", 16);
        planner.plan.groups = planner.buffer("pairs by expert", 16);
        for (index, op) in model.graph.ops.iter().enumerate() {
            planner.op(index, op)?;
        }
        planner.plan.plain.launches = (0..planner.plan.launches.len()).collect();
        planner.fused(&fusions)?;
        planner.choosers()?;
        let is_choice = |op: &Op| matches!(op, Op::TakeOutputs { .. });
        let choice = model.graph.ops.iter().position(is_choice).unwrap_or(model.graph.ops.len());
        let Plan { launches, plain, fused, .. } = &mut planner.plan;
        for sequence in [plain, fused] {
            let body = |launch: &&usize| launches[**launch].ops.iter().all(|op| *op < choice);
            sequence.n_body = sequence.launches.iter().take_while(body).count();
            let rest = &sequence.launches[sequence.n_body..];
            if rest.iter().any(|launch| launches[*launch].rows == Rows::Tokens) {
                return Err(internal("an op after the choice of outputs works on all tokens"));
            }
        }
        planner.plan.leave_out_unused();
        Ok(planner.plan)
    }

    fn buffer(&mut self, label: &str, bytes: u64) -> usize {
        let bytes = whole_words(bytes);
        self.plan.buffers.push(BufferSpec { label: label.to_owned(), bytes, place: Place::Own });
        self.plan.buffers.len() - 1
    }

    /// A run of `bytes` bytes of `buffer` from `at` on.
    fn run_of_buffer(&mut self, label: &str, bytes: u64, (buffer, at): (usize, u64)) -> usize {
        let run = self.buffer(label, bytes);
        self.plan.buffers[run].place = Place::Run(buffer, at);
        run
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

    fn tables(&mut self) {
        for (index, rope) in self.model.graph.ropes.iter().enumerate() {
            let bytes = self.model.n_ctx as u64 * (rope.spec.n_dims / 2) as u64 * 8;
            let buffer = self.buffer(&format!("rope table {index}"), bytes);
            self.plan.tables.push(Table { buffer, rope: RopeId(index) });
        }
    }

    fn values_and_caches(&mut self, fusions: &Fusions) {
        let graph = &self.model.graph;
        let groups: Vec<_> = fusions.list.iter().map(|fusion| (fusion.ops(), fusion.outs())).collect();
        let (n_batch, n_outputs) = (self.model.n_batch as u64, self.plan.n_outputs as u64);
        let coloring = memory::color_values(graph, &groups, n_batch, n_outputs);
        let slots: Vec<usize> = coloring
            .bytes
            .iter()
            .enumerate()
            .map(|(slot, bytes)| self.buffer(&format!("values {slot}"), *bytes))
            .collect();
        self.plan.values = coloring.slot.iter().map(|slot| slot.map(|slot| slots[slot])).collect();
        self.plan.logits = graph.logits.and_then(|logits| self.plan.values[logits.0]).unwrap_or(self.none);
        for (index, kv) in graph.kv.iter().enumerate() {
            let position_bytes = kv.n_kv_heads * self.kv.row_bytes(kv.head_dim);
            let bytes = (self.model.n_kept(kv) * position_bytes) as u64;
            let k = self.buffer(&format!("k cache {index}"), bytes);
            let v = self.buffer(&format!("v cache {index}"), bytes);
            self.plan.buffers[k].place = Place::Cache(index, 0);
            self.plan.buffers[v].place = Place::Cache(index, 1);
            self.plan.caches.push(CacheSpec { k, v, position_bytes });
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

    fn shape(&self) -> MatVecShape {
        self.tuning.mat_vec.unwrap_or(MatVecShape::USUAL)
    }

    /// Weight rows of a mat-vec workgroup.
    fn group_rows(&self) -> u32 {
        self.shape().group_rows()
    }

    fn stage(&mut self, variant: Variant, grid: Grid) -> Stage {
        let subgroups = match variant.kernel {
            Kernel::MatMulRows => self.tuning.hand_on,
            _ => self.tuning.subgroups,
        };
        let variant = variant.tuned(self.shape(), subgroups == Some(true));
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
            let tallest = (self.model.n_batch as u64 * u64::from(grid.mul)).div_ceil(u64::from(grid.div))
                + u64::from(grid.more);
            if tallest.max(u64::from(grid.x.max(grid.z))) > u64::from(MAX_WORKGROUPS) {
                let message = format!("steps of {} tokens are too large for this GPU", self.model.n_batch);
                return Err(Error::new(ErrorCode::LimitExceeded, message));
            }
        }
        // Several rows at once where there may be so many.
        let (one, most) = (few, self.tuning.few_rows().min(self.model.n_batch));
        let several = self.plan.variants[one.variant].of_several().filter(|_| most > 1);
        let few = several
            .map_or(one, |variant| self.stage(variant, Grid { div: one.grid.div * X_ROWS, ..one.grid }));
        let mut words = [0; PARAM_WORDS];
        words[..params.len()].copy_from_slice(params);
        let mut bindings = vec![self.plan.step];
        bindings.extend_from_slice(buffers);
        self.plan.launches.push(Launch {
            ops: vec![op],
            rows,
            few_rows: self.tuning.few_rows(),
            one,
            few,
            many,
            params: words,
            buffers: bindings,
            runs: None,
            shares: 0,
        });
        Ok(())
    }

    fn last_launch(&mut self) -> &mut Launch {
        self.plan.launches.last_mut().expect("invariant: a launch was just made")
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
            Op::Columns { x, first, run, stride, out } => self.columns(index, x, [first, run, stride], out),
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

/// A binding must not be empty, and its size is a multiple of 4.
fn whole_words(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

/// `n` workgroups along x, one row in y each.
fn flat(n: u32) -> Grid {
    Grid { x: n.max(1), z: 1, mul: 1, div: 1, more: 0 }
}

fn outputs(rows: Rows) -> u32 {
    u32::from(rows == Rows::Outputs)
}

fn internal(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("the GPU plan cannot be made: {what}"))
}
