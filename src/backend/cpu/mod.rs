//! Runs graphs on the CPU, on one thread.
//!
//! Principal type: [`CpuBackend`]. It walks the ops and hands each to one of two sets of kernels: `exact` is the
//! executable specification (f32 activations, weights decoded as the file's format says), `fast` is what users run.
//! Must not know a family name, and nothing of the web.

mod elementwise;
mod exact;
mod exchange;
mod fast;
mod fits;
mod moe;
mod part;
mod plan;
#[cfg(not(target_arch = "wasm32"))]
mod pool;
mod profile;
mod recurrent;
mod rope;
mod routes;
mod run;
mod simd;
mod streams;
mod trial;

pub use exchange::{Link, Step, Waiting};
pub use part::CpuShard;
#[cfg(not(target_arch = "wasm32"))]
pub use pool::{CpuPool, MAX_THREADS, Sharding};
pub use trial::Trial;

use crate::backend::{
    Backend, Counters, Footprint, ModelPlan, Outputs, Profile, Sequences, StepOrder, Trace, trace_name,
};
use crate::bail;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Graph, Op, RopeDecl, Rows, ValueId, WeightDecl, WeightId};
use crate::model::shard::{Exchange, Split};
use crate::model::spec::{Activation, NormSpec};
use crate::tensor::DType;
use moe::ExpertMatMul;
use plan::{Workspace, check};
use recurrent::{Recurrences, States};
use rope::RopeTable;

/// Which kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMode {
    /// Repacked weights, activations rounded to 16-bit integers per block of 32, KV cache in f16.
    Fast,
    /// Weights as in the file, everything else in f32: slow, and what the other backends are compared with.
    Exact,
}

/// Called after each op of a step with the graph, the op's index, and the rows that it wrote.
type After<'a> = dyn FnMut(&Graph, usize, &[f32]) + 'a;

/// A model on the CPU.
pub struct CpuBackend {
    plan: ModelPlan,
    kernels: Box<dyn Kernels>,
    workspace: Workspace,
    /// One for each of the graph's ropes; empty until all weights are there.
    ropes: Vec<RopeTable>,
    past: Sequences<Past>,
    /// To the other shards, where the graph is one of several.
    link: Option<Box<dyn Link>>,
    ready: bool,
    counters: Counters,
    /// Memory for the next logits.
    spare: Vec<f32>,
    /// Of decoded tokens, while it is wanted.
    profile: Option<Profile>,
}

/// What a sequence has besides its KV cache.
struct Past {
    states: States,
    order: StepOrder,
}

impl Past {
    fn new(plan: &ModelPlan) -> Past {
        Past { states: States::new(plan), order: StepOrder::of(plan) }
    }
}

/// The arithmetic of the ops and the storage of weights and KV cache. Slices have the lengths that the graph says for
/// the step's number of rows, and ids are in range: [`plan::check`] and [`CpuBackend::forward`] see to it.
trait Kernels {
    /// Stores a piece of a weight, as [`Backend::upload`] has it.
    fn upload(&mut self, weight: WeightId, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Fails when a weight is not complete; frees what only the upload needed.
    fn finish_upload(&mut self) -> Result<()>;

    /// A weight of one row, decoded.
    fn vector(&self, weight: WeightId) -> &[f32];

    /// [`Op::Embed`]
    fn embed(&mut self, table: WeightId, tokens: &[u32], scale: f32, out: &mut [f32]);

    /// [`Op::Norm`]
    fn norm(&self, op: &Norm, x: &[f32], out: &mut [f32]);

    /// [`Op::MatMul`]; `x_id` names the source, so that what is derived from it can be kept for the next op.
    fn matmul(&mut self, op: &MatMul, x_id: ValueId, x: &[f32], out: &mut [f32]);

    /// [`Op::ExpertMatMul`]
    fn expert_matmul(&mut self, op: &ExpertMatMul, x: &[f32], selection: &[f32], out: &mut [f32]);

    /// [`Backend::select`], of sequences with caches as `plan` has them.
    fn select(&mut self, plan: &ModelPlan, sequence: usize);

    /// Makes room in the caches for the first `end` positions; a step's are there before it begins.
    fn reserve(&mut self, end: usize) -> Result<()>;

    /// Stores one token's rotated keys and its values, both `[n_kv_heads, head_dim]`.
    fn write_kv(&mut self, kv: usize, pos: usize, k: &[f32], v: &[f32]);

    /// [`Op::Attention`]
    fn attention(&mut self, op: &Attention, q: &[f32], out: &mut [f32]);

    /// [`Op::GatedActivation`] with the gate in `out`.
    fn gated_activation(&self, activation: Activation, up: &[f32], out: &mut [f32]);

    /// [`Op::Map`] of an activation, in place.
    fn activate(&self, activation: Activation, out: &mut [f32]);

    /// The recurrences over a matrix per head.
    fn recurrences(&self) -> &'static Recurrences;

    /// Makes room for the weights of `plan` after the first `n_kept`, which stay.
    fn replace_weights(&mut self, plan: &ModelPlan, n_kept: usize) -> Result<()>;

    /// Told after every op: what was derived from `value` is out of date.
    fn written(&mut self, value: ValueId);

    /// Fills caches and scratch with NaN from position `pos` on.
    fn poison(&mut self, pos: usize);

    /// Bytes held.
    fn memory_bytes(&self) -> u64;
}

/// The constant operands of [`Op::Norm`].
struct Norm {
    norm: NormSpec,
    /// Elements normalised together.
    group: usize,
    /// `[group]` or `[width]`
    weight: Option<WeightId>,
    bias: Option<WeightId>,
    /// Whether the residual is in the destination.
    accumulate: bool,
}

/// The row of a table of `n_rows` that a token gets: the first, for ids beyond.
fn row_of(token: u32, n_rows: usize) -> usize {
    if (token as usize) < n_rows { token as usize } else { 0 }
}

/// The constant operands of [`Op::MatMul`]: `out = (weight · x + bias) * scale (+ out)`.
struct MatMul {
    weight: WeightId,
    bias: Option<WeightId>,
    /// Whether the residual is in the destination.
    accumulate: bool,
    scale: f32,
}

/// The constant operands of [`Op::Attention`].
struct Attention {
    kv: usize,
    n_heads: usize,
    scale: f32,
    window: Option<usize>,
    softcap: Option<f32>,
    causal: bool,
    /// `[n_heads]`
    sinks: Option<WeightId>,
    /// Position of the step's first token.
    pos: usize,
    /// Tokens of the step.
    n_tokens: usize,
}

impl Attention {
    /// The positions that token `token` of the step sees.
    fn visible(&self, token: usize) -> std::ops::Range<usize> {
        let query = self.pos + token;
        let start = self.window.map_or(0, |window| (query + 1).saturating_sub(window));
        let end = match self.causal {
            true => query + 1,
            false => self.pos + self.n_tokens,
        };
        start..self.window.map_or(end, |window| end.min(query.saturating_add(window)))
    }
}

impl CpuBackend {
    /// What a backend of [`CpuMode::Fast`] for `plan`, or for a shard of it, takes with its weights: repacked, some
    /// formats are larger than in their files. Known without allocating a KV cache; scores and rope tables, some
    /// kilobytes for a thousand positions, are left out.
    /// # Errors
    /// As [`CpuBackend::new`] and [`CpuShard::new`].
    pub fn footprint(plan: &ModelPlan, split: Option<Split>) -> Result<Footprint> {
        check(plan)?;
        let mut plan = match split {
            Some(split) => routes::part_of(plan, split)?.0,
            None => plan.clone(),
        };
        let weight_bytes = fast::weight_bytes(&plan).iter().sum();
        let n_sequences = plan.n_sequences as u64;
        let kv_bytes = n_sequences * fast::kv_bytes(&plan);
        let states = n_sequences * plan.graph.states.iter().map(|decl| 4 * decl.len as u64).sum::<u64>();
        plan.n_ctx = 1;
        let kernels = fast::Fast::new(&plan)?.memory_bytes().saturating_sub(fast::kv_bytes(&plan));
        let workspace_bytes = kernels + states + Workspace::new(&plan)?.memory_bytes();
        Ok(Footprint { weight_bytes, kv_bytes, workspace_bytes })
    }

    /// Allocates everything but the weights, which arrive through [`Backend::upload`].
    /// # Errors
    /// `WrongShape` or `Internal` when the plan does not fit together, `OutOfMemory`.
    pub fn new(plan: ModelPlan, mode: CpuMode) -> Result<CpuBackend> {
        CpuBackend::with_link(plan, mode, None)
    }

    /// As [`CpuBackend::new`], of a shard's graph.
    fn with_link(plan: ModelPlan, mode: CpuMode, link: Option<Box<dyn Link>>) -> Result<CpuBackend> {
        check(&plan)?;
        exchange::check(&plan.graph, link.as_deref())?;
        let kernels: Box<dyn Kernels> = match mode {
            CpuMode::Fast => Box::new(fast::Fast::new(&plan)?),
            CpuMode::Exact => Box::new(exact::Exact::new(&plan)?),
        };
        let workspace = Workspace::new(&plan)?;
        let mut past = Past::new(&plan);
        past.states.reset()?;
        let past = Sequences::new(vec![past]);
        let (ropes, counters, spare) = (Vec::new(), Counters::default(), Vec::new());
        let (ready, profile) = (false, None);
        Ok(CpuBackend { plan, kernels, workspace, ropes, past, link, ready, counters, spare, profile })
    }

    /// Runs a step like [`Backend::forward`] with all outputs, and returns what every op wrote. All buffers are
    /// filled with NaN before, and the KV cache from `pos` on, so that reading what was never written shows.
    /// # Errors
    /// As [`Backend::forward`].
    pub fn forward_traced(&mut self, tokens: &[u32], pos: usize) -> Result<Trace> {
        self.kernels.reserve(pos.saturating_add(tokens.len()).min(self.plan.n_ctx))?;
        self.workspace.poison();
        self.kernels.poison(pos);
        let mut trace = Trace::default();
        let mut note = |graph: &Graph, index: usize, rows: &[f32]| {
            trace.values.push((trace_name(graph, index), rows.to_vec()));
        };
        exchange::at_once(self.step(tokens, pos, Outputs::All, Some(&mut note)))?;
        Ok(trace)
    }

    /// Frees the weights: nothing can be computed until they are there again.
    fn release(&mut self) -> Result<()> {
        self.ready = false;
        let empty = ModelPlan { graph: Graph::default(), dtypes: Vec::new(), ..self.plan };
        self.kernels.replace_weights(&empty, 0)
    }

    fn check_step(&self, tokens: &[u32], pos: usize) -> Result<()> {
        let ModelPlan { graph, n_ctx, n_batch, .. } = &self.plan;
        if !self.ready {
            bail!(Internal, "a step before finish_upload; upload the weights first");
        }
        if tokens.is_empty() || tokens.len() > *n_batch {
            bail!(InvalidRequest, "a step of {} tokens; it takes 1 to {n_batch}", tokens.len());
        }
        if pos.checked_add(tokens.len()).is_none_or(|end| end > *n_ctx) {
            bail!(InvalidRequest, "{} tokens at position {pos} pass the context of {n_ctx}", tokens.len());
        }
        let tables = graph.ops.iter().filter_map(|op| match op {
            Op::Embed { table, .. } => Some(graph.weights[table.0].n_rows),
            Op::Exchange(Exchange::Embed { bounds, .. }) => bounds.last().copied(),
            _ => None,
        });
        let n_vocab = tables.max().unwrap_or(usize::MAX);
        if let Some(token) = tokens.iter().find(|token| **token as usize >= n_vocab) {
            bail!(InvalidRequest, "token id {token} is not in the vocabulary of {n_vocab}");
        }
        Ok(())
    }

    async fn step(
        &mut self,
        tokens: &[u32],
        pos: usize,
        outputs: Outputs,
        mut after: Option<&mut After<'_>>,
    ) -> Result<Vec<f32>> {
        self.check_step(tokens, pos)?;
        self.kernels.reserve(pos + tokens.len())?;
        self.past.order.begin(pos, pos + tokens.len())?;
        if pos == 0 {
            self.past.states.reset()?;
        }
        let n_outputs = outputs.n_rows(tokens.len());
        self.workspace.fit(n_outputs)?;
        for rope in &mut self.ropes {
            rope.set(pos, tokens.len());
        }
        let logits = self.plan.graph.logits.expect("invariant: checked plans compute logits");
        let n_logits = n_outputs * self.plan.graph.values[logits.0].width;
        let mut buffer = std::mem::take(&mut self.spare);
        if buffer.capacity() < n_logits {
            buffer = plan::with_capacity(n_logits, "logits")?;
        }
        buffer.resize(n_logits, 0.0);
        self.workspace.put(logits, buffer);
        for index in 0..self.plan.graph.ops.len() {
            let out = self.plan.graph.ops[index].writes();
            let n_rows = match self.plan.graph.values[out.0].rows {
                Rows::Tokens => tokens.len(),
                Rows::Outputs => n_outputs,
            };
            if n_rows == 0 {
                continue;
            }
            match self.plan.graph.ops[index] {
                Op::Exchange(_) => self.exchange(index, tokens, n_rows).await?,
                _ => self.run_op(index, tokens, pos, n_rows),
            }
            self.kernels.written(out);
            if let Some(after) = &mut after {
                let len = n_rows * self.plan.graph.values[out.0].width;
                after(&self.plan.graph, index, self.workspace.get(out, len));
            }
        }
        self.counters.steps += 1;
        self.past.order.finish(pos + tokens.len());
        Ok(self.workspace.take(logits))
    }
}

/// Whether a piece continues a weight of which `received` of `n_bytes` bytes are there.
/// # Errors
/// `Internal` names the weight: the loader sends pieces in order and cuts them to the tensor.
fn check_piece(decl: &WeightDecl, received: usize, n_bytes: usize, offset: u64, bytes: &[u8]) -> Result<()> {
    if offset != received as u64 || bytes.len() > n_bytes - received {
        let message = format!(
            "a piece of {} bytes at {offset}, where {received} of {n_bytes} bytes are there",
            bytes.len()
        );
        return Err(Error::new(ErrorCode::Internal, message).at(decl.name.clone()));
    }
    Ok(())
}

/// Whether all of a weight is there.
/// # Errors
/// `Truncated` names the weight.
fn check_complete(decl: &WeightDecl, received: usize, n_bytes: usize) -> Result<()> {
    if received != n_bytes {
        let message = format!("only {received} of {n_bytes} bytes arrived; load the model again");
        return Err(Error::new(ErrorCode::Truncated, message).at(decl.name.clone()));
    }
    Ok(())
}

impl Backend for CpuBackend {
    fn upload(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        if weight >= self.plan.graph.weights.len() {
            bail!(Internal, "weight {weight} of {}", self.plan.graph.weights.len());
        }
        self.kernels.upload(WeightId(weight), offset, bytes)
    }

    async fn finish_upload(&mut self) -> Result<()> {
        self.kernels.finish_upload()?;
        let ModelPlan { graph, n_batch, .. } = &self.plan;
        let table = |rope: &RopeDecl| RopeTable::new(&rope.spec, *n_batch);
        self.ropes = graph.ropes.iter().map(table).collect::<Result<_>>()?;
        self.use_long_rope(false);
        self.ready = true;
        Ok(())
    }

    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        let Some(mut profile) = self.profile.take_if(|_| tokens.len() == 1) else {
            return self.step(tokens, pos, outputs, None).await;
        };
        let result = self.profiled(tokens, pos, outputs, &mut profile).await;
        self.profile = Some(profile);
        result
    }

    fn profile(&mut self, begin: bool) -> Option<Profile> {
        std::mem::replace(&mut self.profile, begin.then(Profile::default))
    }

    fn select(&mut self, sequence: usize) {
        self.kernels.select(&self.plan, sequence);
        self.past.select(sequence, || Past::new(&self.plan));
    }

    fn earliest(&self) -> usize {
        self.past.order.earliest()
    }

    fn reuse(&mut self, logits: Vec<f32>) {
        // Those of a whole prompt would be held for nothing.
        let id = self.plan.graph.logits.expect("invariant: checked plans compute logits");
        if logits.len() == self.plan.graph.values[id.0].width {
            self.spare = logits;
        }
    }

    async fn replace_graph(&mut self, graph: Graph, dtypes: Vec<DType>, n_kept: usize) -> Result<()> {
        let plan = ModelPlan { graph, dtypes, ..self.plan };
        check(&plan)?;
        exchange::check(&plan.graph, self.link.as_deref())?;
        let kept = self.plan.graph.weights.get(..n_kept);
        if kept.is_none() || kept != plan.graph.weights.get(..n_kept) || plan.graph.kv != self.plan.graph.kv {
            bail!(Internal, "a graph in the place of another does not begin with its weights");
        }
        let workspace = Workspace::new(&plan)?;
        self.kernels.replace_weights(&plan, n_kept)?;
        (self.plan, self.workspace, self.ready) = (plan, workspace, false);
        Ok(())
    }

    fn use_long_rope(&mut self, long: bool) {
        for (decl, table) in self.plan.graph.ropes.iter().zip(&mut self.ropes) {
            let factors = decl.factors_for(long).map(|factors| self.kernels.vector(factors));
            table.set_factors(factors, long);
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn memory_bytes(&self) -> u64 {
        let ropes: u64 = self.ropes.iter().map(RopeTable::memory_bytes).sum();
        let states: u64 = self.past.all().iter().map(|past| past.states.memory_bytes()).sum();
        self.kernels.memory_bytes() + self.workspace.memory_bytes() + states + ropes
    }
}
