//! How fast the workers of a pool compute and exchange here and now: by which the number of workers is chosen.
//!
//! Principal functions: [`speed`] and [`rounds`], run by all workers at a time, and [`Work::best`]. Must not know models.

use std::future::poll_fn;

use web_time::Instant;

use crate::backend::cpu::{CpuBackend, CpuMode, Link};
use crate::backend::{Backend, ModelPlan, Outputs};
use crate::error::Result;
use crate::model::graph::{Graph, Op, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use crate::model::shard::{Split, shard};
use crate::tensor::DType;

/// How long a worker computes to find its speed, in milliseconds.
const SPEED_MS: f64 = 15.0;
/// Rounds that are timed, after some that are not.
const ROUNDS: u32 = 32;
const WARM_UP: u32 = 4;
/// Elements of a part that is typical of a token.
const PART: usize = 512;
/// Matrices of fewer elements are not worth an exchange: every worker holds them.
const LEAST: usize = 1 << 15;
/// But in a model of which such a share of its work is much.
const SHARE: f64 = 64.0;
/// Less work for a token is done before others could help, in milliseconds.
const LEAST_MS: f64 = 2.0;
/// Workers must make a token so much faster than one to be worth their memory and heat.
const WORTH: f64 = 0.85;

/// Multiplications a millisecond of the product kernels, on weights that come from beyond the nearest caches.
/// # Errors
/// `OutOfMemory`.
pub(super) async fn speed() -> Result<f64> {
    let (n_cols, n_rows, dtype) = (512, 4096, DType::Q4_0);
    let weight =
        |name: &str, kind, n_rows| WeightDecl { name: name.to_owned(), n_cols, n_rows, kind, part_of: None };
    let value = |width| ValueDecl { name: String::new(), width, rows: Rows::Tokens };
    let (x, out) = (ValueId(0), ValueId(1));
    let product = Op::MatMul { x, weight: WeightId(1), bias: None, add: None, scale: 1.0, out };
    let graph = Graph {
        values: vec![value(n_cols), value(n_rows)],
        weights: vec![weight("t", WeightKind::Embedding, 1), weight("w", WeightKind::Matrix, n_rows)],
        ops: vec![Op::Embed { table: WeightId(0), scale: 1.0, out: x }, product],
        logits: Some(out),
        ..Graph::default()
    };
    let plan = ModelPlan { graph, dtypes: vec![dtype; 2], n_ctx: 1, n_batch: 1 };
    let mut backend = CpuBackend::new(plan, CpuMode::Fast)?;
    let row = vec![0; n_cols / 32 * 18];
    backend.upload(0, 0, &row)?;
    backend.upload(1, 0, &row.repeat(n_rows))?;
    backend.finish_upload().await?;
    backend.forward(&[0], 0, Outputs::Last).await?;
    let (start, mut done) = (Instant::now(), 0.0);
    loop {
        backend.forward(&[0], 0, Outputs::Last).await?;
        done += (n_cols * n_rows) as f64;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if ms >= SPEED_MS {
            return Ok(done / ms);
        }
    }
}

/// Milliseconds of a round of exchanging parts, which all workers run together.
/// # Errors
/// `WorkerFailed`.
pub(super) async fn rounds(link: &mut dyn Link) -> Result<f64> {
    let part = [0.0; PART];
    let mut start = Instant::now();
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            start = Instant::now();
        }
        link.send(&part)?;
        poll_fn(|context| link.poll_receive(context, &mut |_, _| ())).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(ROUNDS))
}

/// What a token costs.
pub(super) struct Work<'a> {
    graph: &'a Graph,
    /// Multiplications.
    products: f64,
    /// Fewest workers that have the memory.
    least: usize,
}

/// What was measured.
pub(super) struct Measured {
    /// [`speed`] of the leader alone.
    pub(super) alone: f64,
    /// The slowest worker's while all compute.
    pub(super) together: f64,
    /// [`rounds`] between all.
    pub(super) round_ms: f64,
    /// How many those are.
    pub(super) count: usize,
}

impl Work<'_> {
    /// Of a model whose weights take so many workers' memory at least.
    pub(super) fn new(graph: &Graph, least: usize) -> Work<'_> {
        let elements = |weight: WeightId| {
            let WeightDecl { n_rows, n_cols, .. } = graph.weights[weight.0];
            n_rows as f64 * n_cols as f64
        };
        let products = graph.ops.iter().map(|op| match *op {
            Op::MatMul { weight, .. } => elements(weight),
            Op::ExpertMatMul { weight, selection, n_experts, .. } => {
                let n_used = graph.values[selection.0].width / 2;
                elements(weight) * n_used as f64 / n_experts as f64
            }
            _ => 0.0,
        });
        Work { graph, products: products.sum(), least }
    }

    /// Fewest workers that have the memory.
    pub(super) fn least(&self) -> usize {
        self.least
    }

    /// Matrices of fewer elements are held by every worker.
    pub(super) fn least_elements(&self) -> usize {
        LEAST.min((self.products / SHARE) as usize)
    }

    /// Whether more than one worker can be worth it, given [`speed`] of this one.
    pub(super) fn is_worth_it(&self, alone: f64) -> bool {
        self.least > 1 || self.products / alone >= LEAST_MS
    }

    /// The number of workers that makes a token soonest, as far as can be told.
    pub(super) fn best(&self, measured: &Measured) -> usize {
        let Measured { alone, together, round_ms, count } = *measured;
        let mut best = (1, WORTH * self.products / alone);
        if self.least > 1 {
            best = (count, f64::INFINITY);
        }
        for n in self.least.max(2)..=count {
            // Both costs grow from what one worker has to what was measured with all.
            let share = (n - 1) as f64 / (count - 1) as f64;
            let speed = alone + (together - alone) * share;
            let split = Split { index: 0, count: n, least: self.least_elements() };
            let ops = shard(self.graph, split).graph.ops;
            let exchanges = ops.iter().filter(|op| matches!(op, Op::Exchange(_))).count() as f64;
            let ms = self.products / (n as f64 * speed) + exchanges * round_ms * share;
            if ms < best.1 {
                best = (n, ms);
            }
        }
        best.0
    }
}
