//! How graphs run: one trait, a CPU and a GPU implementation.
//!
//! Principal trait: [`Backend`]. A backend is made for one model (graph, tensor formats, context length), is filled
//! tensor by tensor, and then runs steps. It knows ops and weight formats and never a family name.

mod any;
pub mod cpu;
mod draw;
#[cfg(feature = "gpu")]
pub mod gpu;
mod order;
mod profile;
mod sequences;

pub use any::AnyBackend;
pub use draw::{Draw, Logprobs};
pub(crate) use order::StepOrder;
pub use profile::{OpTime, Profile};
pub(crate) use sequences::Sequences;

use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Graph, KvDecl};
use crate::quant;
use crate::tensor::DType;

/// Everything a backend needs to know to allocate and plan; no weights yet.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// The computation.
    pub graph: Graph,
    /// Storage format of each of [`Graph::weights`], in the same order.
    pub dtypes: Vec<DType>,
    /// Positions a KV cache holds.
    pub n_ctx: usize,
    /// Most tokens of one step.
    pub n_batch: usize,
    /// Most sequences that are selected, each with a KV cache of its own from its first step on.
    pub n_sequences: usize,
    /// Format of the cache's keys and values, one of [`KV_FORMATS`]; what suits the backend where there is none.
    pub kv_cache: Option<DType>,
}

/// Positions that KV caches grow by as texts do: a long context costs a short text no memory. On the CPU whole blocks, and
/// whole tiles.
pub(crate) const KV_PAGE: usize = 512;

/// How far a text can be taken back, at least, where caches forget what windows do not show.
pub const REWIND: usize = 256;

impl ModelPlan {
    /// Positions that the cache `kv` has room for; position `p` stands at `p` modulo that. Where all that read it have a
    /// window, that is the window's and those of a step, which is written before it is read, and of a rewind.
    pub fn n_kept(&self, kv: &KvDecl) -> usize {
        let kept = |window: usize| window.saturating_add(self.n_batch + REWIND).min(self.n_ctx);
        kv.window.map_or(self.n_ctx, kept)
    }

    /// Whether any cache forgets.
    fn forgets(&self) -> bool {
        self.graph.kv.iter().any(|kv| self.n_kept(kv) < self.n_ctx)
    }
}

/// Formats that keys and values can be kept in.
pub const KV_FORMATS: [DType; 4] = [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0];

/// The format of [`KV_FORMATS`] that users call `name`.
/// # Errors
/// `InvalidRequest`.
pub fn kv_format(name: &str) -> Result<DType> {
    let found = KV_FORMATS.into_iter().find(|dtype| quant::format(*dtype).name == name);
    found.ok_or_else(|| {
        let message = format!("{name:?} is no format of a KV cache; there are f32, f16, q8_0 and q4_0");
        Error::new(ErrorCode::InvalidRequest, message).at("kv_cache")
    })
}

/// Bytes that a model takes in a backend, known before its weights are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Footprint {
    /// As the backend keeps them.
    pub weight_bytes: u64,
    /// Keys and values of [`ModelPlan::n_ctx`] positions of all sequences.
    pub kv_bytes: u64,
    /// Everything else.
    pub workspace_bytes: u64,
}

impl Footprint {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.workspace_bytes
    }
}

/// Which rows of logits a step returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: all but the last chunk of a prefill.
    None,
    /// The last token's, `[1, n_vocab]`.
    Last,
    /// Every token's, `[n_tokens, n_vocab]`.
    All,
}

impl Outputs {
    /// Number of rows for a step of `n_tokens`.
    pub fn n_rows(self, n_tokens: usize) -> usize {
        match self {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => n_tokens,
        }
    }
}

/// Work done by a backend since it was made; differences between two readings are per-request figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Steps run.
    pub steps: u64,
    /// Kernel launches (0 on the CPU, as all below).
    pub dispatches: u64,
    /// Compute passes that they stood in.
    pub passes: u64,
    /// Writes from the CPU into GPU buffers.
    pub queue_writes: u64,
    /// Bind groups created.
    pub bind_groups: u64,
    /// Buffers created.
    pub buffers: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// CPU time spent recording and submitting, in microseconds.
    pub encode_us: u64,
    /// Bytes copied back from the GPU.
    pub readback_bytes: u64,
}

/// How often [`Backend::choose`] begins steps before the first are waited for.
pub const MOST_BEGUN: usize = 2;

/// Runs one model.
///
/// Several texts can be kept, each as a sequence with a KV cache and recurrent states of its own, of which one is selected: all
/// that is said here of positions is of that one.
///
/// The KV cache is addressed by position: a step at `pos` overwrites what was cached from `pos` on, so going back is
/// just a smaller `pos`, though none but 0 before [`Backend::earliest`]. A graph with recurrent states has no such cache of
/// its past: its steps follow each other or start at 0, and any other position is an `Internal` error.
#[allow(async_fn_in_trait, reason = "single-threaded by design: no Send bounds wanted")]
pub trait Backend {
    /// Stores a piece of a tensor exactly as it stands in the file: bytes `offset..offset + bytes.len()` of weight
    /// `weight`. Pieces of one tensor come in order; a piece starts at a multiple of 4.
    fn upload(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Called when all tensors are there: frees staging, waits for pipelines.
    async fn finish_upload(&mut self) -> Result<()>;

    /// Runs `tokens` (at most `n_batch`) at positions `pos..`, and returns the logits asked for, row-major
    /// `[n_outputs, n_vocab]`.
    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>>;

    /// Steps from now on belong to `sequence`, a number below [`ModelPlan::n_sequences`]; to begin with to the first. One that
    /// is not used takes (nearly) no memory. None may be under way.
    fn select(&mut self, sequence: usize);

    /// The first position but 0 that a step may start at: caches of layers with a window forget what lies far behind.
    /// Larger than all positions where all of the sequence is forgotten.
    fn earliest(&self) -> usize;

    /// Gives logits back that are no longer needed: their memory may serve a later step.
    fn reuse(&mut self, logits: Vec<f32>) {
        drop(logits);
    }

    /// Tokens that a step takes in about the time of fewer: a prompt's chunks are whole tiles, or one token.
    fn tile(&self) -> usize {
        4
    }

    /// How many steps [`Backend::choose`] runs at once where tokens are drawn so; 0 where it does not.
    fn chooses(&self, draw: &Draw) -> usize {
        let _ = draw;
        0
    }

    /// Begins `n` steps, each with the token drawn from the logits of the one before: from a token at a position on, or
    /// behind those begun last, of which one may be waited for at the same time. Does not wait; other steps, and a new
    /// beginning, give up what is under way. The last token drawn is not run.
    /// # Errors
    /// `InvalidRequest` for more steps than [`Backend::chooses`] or the context holds.
    fn choose(&mut self, start: Option<(u32, usize, &Draw)>, n: usize) -> Result<()> {
        let _ = start;
        crate::bail!(Internal, "this backend does not choose tokens; {n} were asked of it")
    }

    /// What was drawn after each of the steps that were begun first: fewer where a token cannot be told from the sums
    /// of this backend; the caller then runs that step and draws by itself. All that follows is given up.
    /// # Errors
    /// `Internal` where no logit is a finite number.
    async fn chosen(&mut self) -> Result<Vec<u32>> {
        crate::bail!(Internal, "this backend does not choose tokens")
    }

    /// Of each token that [`Backend::chosen`] gave last, how probable it and others were; none where [`Draw::top`] does not
    /// ask for it.
    fn take_logprobs(&mut self) -> Vec<Logprobs> {
        Vec::new()
    }

    /// Puts `graph` in the place of the one that runs, with formats `dtypes` of its weights. Its first `n_kept` weights
    /// are those of the old graph and stay where they are, its caches, states and ropes are the same; all other weights
    /// are to be uploaded, and [`Backend::finish_upload`] called again. What the KV caches hold is lost.
    /// # Errors
    /// As when the backend was made; the old graph then stays.
    async fn replace_graph(&mut self, graph: Graph, dtypes: Vec<DType>, n_kept: usize) -> Result<()>;

    /// Sets whether steps from now on belong to a text longer than [`Graph::long_rope_beyond`], and are rotated by the
    /// factors for such, whatever their sequence. What a KV cache holds that was rotated otherwise the caller computes
    /// again. To begin with it is not.
    fn use_long_rope(&mut self, long: bool);

    /// Begins to note where the time of decoded tokens goes, or ends that and tells it; `None` from backends whose time
    /// is measured from outside of them.
    fn profile(&mut self, begin: bool) -> Option<Profile> {
        let _ = begin;
        None
    }

    /// Work done so far.
    fn counters(&self) -> Counters;

    /// Bytes held: weights, KV cache and workspace.
    fn memory_bytes(&self) -> u64;
}

/// What one step computed, op by op: finds the first op where two backends part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// For each op in order of execution, [`trace_name`] and the rows it wrote, row-major.
    pub values: Vec<(String, Vec<f32>)>,
}

/// Where two traces part.
#[derive(Clone, Debug, PartialEq)]
pub struct Parting {
    /// [`trace_name`] of the op.
    pub name: String,
    /// Index of the element that differs most.
    pub index: usize,
    /// That element in the trace, and in the other one.
    pub values: (f32, f32),
    /// The difference as a share of the value's root mean square.
    pub relative: f32,
}

impl Trace {
    /// The first op whose values differ by more than `tolerance` times their root mean square (NaN always differs).
    /// Ops that only one of the traces has are skipped, so a backend that fuses ops can still be compared.
    pub fn first_parting(&self, other: &Trace, tolerance: f32) -> Option<Parting> {
        let shared = self.values.iter().filter_map(|(name, ours)| {
            let (_, theirs) = other.values.iter().find(|(other, _)| other == name)?;
            Some((name, ours, theirs))
        });
        for (name, ours, theirs) in shared {
            let square_sum: f64 = ours.iter().map(|v| f64::from(*v).powi(2)).sum();
            let rms = (square_sum / ours.len().max(1) as f64).sqrt().max(1e-30) as f32;
            let mut worst = (ours.len() != theirs.len()).then(|| {
                let index = ours.len().min(theirs.len());
                Parting { name: name.clone(), index, values: (f32::NAN, f32::NAN), relative: f32::INFINITY }
            });
            for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
                let relative = (a - b).abs() / rms;
                let within = relative <= worst.as_ref().map_or(tolerance, |worst| worst.relative);
                if !within {
                    let name = name.clone();
                    let relative = if relative.is_nan() { f32::INFINITY } else { relative };
                    worst = Some(Parting { name, index, values: (*a, *b), relative });
                }
            }
            if worst.is_some() {
                return worst;
            }
        }
        None
    }
}

/// Name of what op `index` writes, such as `7:layers.0.q`: an op's index makes it unique, for the residual stream is
/// written many times.
pub fn trace_name(graph: &Graph, index: usize) -> String {
    let value = &graph.values[graph.ops[index].writes().0];
    format!("{index}:{}", value.name)
}
