//! Does this GPU compute what the CPU computes? Asked before a model is loaded onto it.
//!
//! Principal function: [`check_gpu`]. Drivers miscompile, and a wrong kernel is worse than a slow one: a small model of
//! the same kind, with arbitrary weights, goes through every kernel that the large one needs, and what comes out wrong is
//! replaced by what computes the same in another way. Must not know the web.

use serde::Serialize;
use web_time::Instant;

use crate::backend::cpu::{CpuBackend, CpuMode};
use crate::backend::gpu::kernels::{MatMulTile, MatVecShape};
use crate::backend::gpu::{GpuBackend, GpuDevice, Precision, Tuning};
use crate::backend::{AnyBackend, Backend, Draw, Logprobs, ModelPlan, Outputs};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, WeightDecl, WeightKind};
use crate::quant::{self, Format};
use crate::tensor::DType;

/// Tokens of the first step: two tiles of the tiled product and some, and more keys than one run of attention holds.
pub(super) const N_BATCH: usize = 66;
/// Room for the steps behind it: one token, a few, and two whose next tokens are chosen.
pub(super) const N_CTX: usize = N_BATCH + 6;

/// Differences beyond this part of the logits' root mean square mean a wrong kernel. Kernels of f32 differ by the order of
/// their sums; half floats round the cache and the weights of long products to one part in 2048, layer by layer.
const TOLERANCE_F32: f32 = 0.01;
const TOLERANCE_F16: f32 = 0.1;

/// How far results in `precision` may be from the CPU's with keys and values in the format `kv_cache`: what lies between
/// two codes of few bits may get the other one where it differs in its last bits.
fn tolerance((precision, tuning): Way, kv_cache: Option<DType>) -> f32 {
    let of_cache = match kv_cache {
        Some(DType::Q8_0) => 0.02,
        Some(DType::Q4_0) => 0.15,
        _ => 0.0,
    };
    let rounds = precision == Precision::F16 || tuning.tile.is_some_and(|tile| tile.packed);
    of_cache + if rounds { TOLERANCE_F16 } else { TOLERANCE_F32 }
}

/// Weights and tokens are made from these, one after the other: that two experts were as good as equal, say, must not
/// happen with both.
const SEEDS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x2545_f491_4f6c_dd1d];

/// How a GPU was found to be, as `EngineInfo.gpu` of the TypeScript API.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuFacts {
    /// Kernel variants whose results were compared with the CPU's.
    pub kernels: usize,
    /// How long that took, with the kernels' compilation.
    pub milliseconds: u32,
    /// What was wrong and is not used, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<&'static str>,
    /// Whether kernels use subgroups.
    pub subgroups: bool,
    /// What [`GpuDevice::tune`] found, now or on an earlier visit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuned: Option<String>,
}

/// How to compute.
type Way = (Precision, Tuning);
type Change = fn(&mut Way);

/// Ways to do without something, those that cost least first; then without all of it.
const REPLACEMENTS: [(&str, Change); 7] = [
    ("subgroups by memory", |way| (way.1.subgroups, way.1.hand_on) = (Some(false), Some(false))),
    ("kernels that choose tokens by the CPU", |way| way.1.choose = false),
    ("fused kernels by one for each operation", |way| way.1.fuse = false),
    ("half floats by f32", |way| way.0 = Precision::F32),
    ("the shape of products of few rows by the usual one", |way| way.1.mat_vec = Some(MatVecShape::USUAL)),
    ("the product of many rows by another", |way| {
        let usual = way.1.tile == Some(MatMulTile::USUAL);
        way.1.tile = Some(if usual { MatMulTile::ROWS } else { MatMulTile::USUAL });
    }),
    ("all of it", |way| REPLACEMENTS[..6].iter().for_each(|(_, replace)| replace(way))),
];

/// Runs `model`, a miniature of the one to be loaded, on `device` in `precision`, and compares it with the CPU. Gives how
/// to run the large one: as wanted, or without what was wrong.
/// # Errors
/// `GpuCheckFailed` where nothing helps, with the first wrong value; `GpuLost`, `OutOfMemory`.
pub async fn check_gpu(
    device: &GpuDevice,
    model: &ModelPlan,
    precision: Precision,
    tuning: Tuning,
) -> Result<(Precision, Tuning, GpuFacts)> {
    let start = Instant::now();
    let mut samples = Vec::new();
    let wanted = (precision, tuning.on(device.info()));
    let mut failed = None;
    let mut replacements = REPLACEMENTS.iter();
    let (mut way, mut replaced) = (wanted, None);
    loop {
        match is_right(device, model, way, &mut samples).await {
            Ok(kernels) => {
                let milliseconds = start.elapsed().as_millis() as u32;
                let subgroups = way.1.subgroups == Some(true);
                let facts = GpuFacts { kernels, milliseconds, replaced, subgroups, tuned: None };
                return Ok((way.0, way.1, facts));
            }
            Err(error) if error.code() == ErrorCode::GpuCheckFailed => failed = failed.or(Some(error)),
            Err(error) => return Err(error),
        }
        // What is not in use need not be replaced.
        way = wanted;
        while way == wanted {
            match (replacements.next(), failed.take()) {
                (Some((what, replace)), first) => {
                    replace(&mut way);
                    (replaced, failed) = (Some(*what), first);
                }
                (None, first) => return Err(first.expect("invariant: the first way has failed")),
            }
        }
    }
}

/// Tries each seed until one gives what the CPU gives; the number of kernels.
async fn is_right(
    device: &GpuDevice,
    model: &ModelPlan,
    way: Way,
    samples: &mut Vec<Sample>,
) -> Result<usize> {
    let mut last = Ok(0);
    for (index, seed) in SEEDS.into_iter().enumerate() {
        if samples.len() <= index {
            samples.push(Sample::new(model, seed).await?);
        }
        // Where the CPU finds no numbers either there is nothing to compare.
        if !samples[index].rms.is_normal() {
            continue;
        }
        let tuning = Tuning { run_keys: 1, ..way.1 };
        let backend = GpuBackend::with_tuning(model.clone(), device.clone(), way.0, tuning).await?;
        let kernels = backend.kernels().len();
        let tolerance = tolerance(way, model.kv_cache);
        last = samples[index].compare(AnyBackend::Gpu(backend), tolerance).await.map(|()| kernels);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Arbitrary weights and tokens, and the logits that the CPU computes from them.
struct Sample {
    weights: Vec<Vec<u8>>,
    tokens: Vec<u32>,
    causal: bool,
    n_vocab: usize,
    /// Of all tokens, row after row.
    logits: Vec<f32>,
    rms: f32,
}

/// Steps: their tokens, and from which position on.
const STEPS: [(usize, usize); 3] = [(N_BATCH, 0), (1, N_BATCH), (3, N_BATCH + 1)];

impl Sample {
    async fn new(model: &ModelPlan, seed: u64) -> Result<Sample> {
        let mut random = Random(seed);
        let graph = &model.graph;
        let mut weights = Vec::new();
        for (index, (decl, dtype)) in graph.weights.iter().zip(&model.dtypes).enumerate() {
            let of_order = |op: &Op| matches!(op, Op::Permute { index: order, .. } if order.0 == index);
            weights.push(match graph.ops.iter().any(of_order) {
                true => reversed(decl.n_cols),
                false => random.weight(decl, quant::format(*dtype)),
            });
        }
        let tables = graph.weights.iter().filter(|decl| decl.kind == WeightKind::Embedding);
        let n_ids = tables.map(|decl| decl.n_rows).min().unwrap_or(1) as u64;
        let tokens: Vec<u32> = (0..N_CTX).map(|_| (random.next() % n_ids) as u32).collect();
        let causal = !graph.ops.iter().any(|op| matches!(op, Op::Attention { causal: false, .. }));
        let n_vocab = graph.logits.map_or(0, |logits| graph.values[logits.0].width);
        let mut sample = Sample { weights, tokens, causal, n_vocab, logits: Vec::new(), rms: 0.0 };
        let mut backend = AnyBackend::Cpu(CpuBackend::new(model.clone(), CpuMode::Exact)?);
        sample.logits = sample.run(&mut backend).await?;
        if causal {
            for pos in N_CTX - 2..N_CTX {
                sample.logits.extend(backend.forward(&sample.tokens[pos..=pos], pos, Outputs::All).await?);
            }
        }
        let squares: f64 = sample.logits.iter().map(|logit| f64::from(*logit).powi(2)).sum();
        sample.rms = (squares / sample.logits.len() as f64).sqrt() as f32;
        Ok(sample)
    }

    /// Fills `backend` and runs the steps.
    async fn run(&self, backend: &mut AnyBackend) -> Result<Vec<f32>> {
        for (index, bytes) in self.weights.iter().enumerate() {
            backend.upload(index, 0, bytes)?;
        }
        backend.finish_upload().await?;
        let mut logits = Vec::new();
        for (n, pos) in STEPS {
            let pos = if self.causal { pos } else { 0 };
            logits.extend(backend.forward(&self.tokens[pos..pos + n], pos, Outputs::All).await?);
        }
        Ok(logits)
    }

    /// # Errors
    /// `GpuCheckFailed` for what is not the CPU's, and what the backend says.
    async fn compare(&self, mut backend: AnyBackend, tolerance: f32) -> Result<()> {
        let found = self.run(&mut backend).await?;
        let bound = tolerance * self.rms;
        let close = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= bound;
        if let Some((index, (found, expected))) =
            found.iter().zip(&self.logits).enumerate().find(|(_, pair)| !close(pair))
        {
            return Err(wrong(&format!(
                "{found} where {expected} was expected, element {} of row {}",
                index % self.n_vocab,
                index / self.n_vocab
            )));
        }
        // The best token, and one of the best three.
        for n_best in if self.causal { [1, 3].as_slice() } else { &[] } {
            let (mut pos, mut draw) = (N_CTX - 2, Draw::BEST);
            if *n_best == 3 {
                pos += 1;
                draw = Draw { scale: 1.0, floor: -40.0, top_k: 3, presence: 1e-6, top: Some(3), ..draw };
                draw.seen.push((self.tokens[0], 1));
            }
            if backend.chooses(&draw) == 0 {
                continue;
            }
            backend.choose(Some((self.tokens[pos], pos, &draw)), 1)?;
            let row = &self.logits[pos * self.n_vocab..][..self.n_vocab];
            let ids = backend.chosen().await?;
            for id in &ids {
                let own = row.get(*id as usize).copied().unwrap_or(f32::NEG_INFINITY);
                let better = row.iter().filter(|logit| **logit > own + bound).count();
                if better >= *n_best {
                    return Err(wrong(&format!("token {id} was chosen where {better} others are better")));
                }
            }
            for (id, mut told) in ids.into_iter().zip(backend.take_logprobs()) {
                told.top.push((id, told.drawn));
                for (id, found) in told.top {
                    let known = (id as usize) < row.len();
                    let expected = if known { Logprobs::of(row, id, 0).drawn } else { f32::NAN };
                    // The logit and the sum over all of them are each as far off as that.
                    let close = (found - expected).abs() <= 2.0 * bound;
                    if !close {
                        return Err(wrong(&format!("log-probability {found} where {expected} was expected")));
                    }
                }
            }
        }
        Ok(())
    }
}

fn wrong(what: &str) -> Error {
    let message =
        format!("this GPU computes wrongly ({what}); use the CPU backend, and please report the GPU");
    Error::new(ErrorCode::GpuCheckFailed, message)
}

/// The order of `n` columns from the last to the first, as a vector of F32.
fn reversed(n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for column in (0..n).rev() {
        bytes.extend_from_slice(&(column as f32).to_le_bytes());
    }
    bytes
}

/// A linear congruential generator: the samples need no more.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A weight of blocks drawn from some of arbitrary bits, that decode to values of an ordinary size: every field of a
    /// format is exercised without this function knowing any.
    fn weight(&mut self, decl: &WeightDecl, format: &Format) -> Vec<u8> {
        let n_blocks = decl.n_cols * decl.n_rows / format.block_len;
        let n_made = (POOL / format.block_len).min(n_blocks);
        let mut pool = Vec::with_capacity(n_made * format.block_bytes);
        let mut decoded = vec![0.0; format.block_len];
        for _ in 0..n_made {
            let start = pool.len();
            // About one arbitrary block in ten has scales within bounds, of the least likely format one in some hundred.
            for _ in 0..20_000 {
                pool.truncate(start);
                pool.extend((0..format.block_bytes).map(|_| self.next() as u8));
                (format.dequant)(&pool[start..], &mut decoded);
                let largest = decoded.iter().fold(0.0_f32, |largest, value| match value.is_finite() {
                    true => largest.max(value.abs()),
                    false => f32::INFINITY,
                });
                if (0.02..0.5).contains(&largest) {
                    break;
                }
            }
        }
        let mut blocks = Vec::with_capacity(n_blocks * format.block_bytes);
        for _ in 0..n_blocks {
            let start = self.next() as usize % n_made * format.block_bytes;
            blocks.extend_from_slice(&pool[start..][..format.block_bytes]);
        }
        blocks
    }
}

/// Elements that are made of a weight; its blocks repeat them.
const POOL: usize = 4096;
