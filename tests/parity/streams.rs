//! Ops on parallel streams and whole rows, and rounding, on every backend against their definitions; and tables with
//! fewer rows than the vocabulary.

use half::{bf16, f16};
use lamplight::backend::Trace;
use lamplight::backend::cpu::{CpuBackend, CpuMode};
#[cfg(feature = "gpu")]
use lamplight::backend::gpu::{GpuBackend, GpuOptions, Precision};
use lamplight::model::graph::{Half, Op, Unary, WeightKind};
#[cfg(feature = "gpu")]
use pollster::block_on;

use crate::naive::Naive;
use crate::recurrent::{Case, N_VOCAB};
use crate::support::{Model, Rng};

const TOLERANCE: f32 = 1e-5;

impl Naive<'_> {
    pub(crate) fn streams(&self, op: &Op) -> Vec<f64> {
        let row_op = |x: &[f64], f: &dyn Fn(f64, f64) -> (f64, f64)| -> Vec<f64> {
            let n = x.len() as f64;
            let mean = x.iter().sum::<f64>() / n;
            let (factor, cutoff) = f(mean, x.iter().map(|v| v * v).sum::<f64>() / n);
            x.iter().map(|v| v * factor - cutoff).collect()
        };
        match *op {
            Op::StreamMix { ref streams, coefs, first, offset, add, .. } => {
                let mut out = Vec::new();
                for (t, (add, coefs)) in self.rows(add).zip(self.rows(coefs)).enumerate() {
                    for (c, add) in add.iter().enumerate() {
                        let stream = |j: usize| self.rows(streams[j]).nth(t).expect("row")[c];
                        let term = |j: usize| (coefs[first + j] + f64::from(offset)) * stream(j);
                        out.push(add + (0..streams.len()).map(term).sum::<f64>());
                    }
                }
                out
            }
            Op::MatchMagnitude { x, like, .. } => {
                let rows = self.rows(x).zip(self.rows(like));
                rows.flat_map(|(x, like)| {
                    let wanted = like.iter().map(|v| v * v).sum::<f64>() / like.len() as f64;
                    row_op(x, &|_, square| ((wanted / square.max(1e-5)).sqrt(), 0.0))
                })
                .collect()
            }
            Op::GaussianTopK { x, factor, .. } => self
                .rows(x)
                .flat_map(|x| {
                    row_op(x, &|mean, square| (1.0, mean + f64::from(factor) * (square - mean * mean).sqrt()))
                })
                .map(|v| v.max(0.0))
                .collect(),
            _ => unreachable!("an op that the tested graphs do not have"),
        }
    }
}

fn models(rng: &mut Rng) -> Vec<Model> {
    let mut models = Vec::new();
    for width in [1, 37, 300] {
        for n_streams in 1..=4 {
            let mut case = Case::default();
            let streams: Vec<_> = (0..n_streams).map(|_| case.input(rng, width)).collect();
            let (coefs, out) = (case.input(rng, n_streams + 3), case.value(width));
            let (add, offset) = (streams[n_streams - 1], rng.unit());
            models.push(case.finish(Op::StreamMix { streams, coefs, first: 3, offset, add, out }));
        }
        let mut case = Case::default();
        let (x, like, out) = (case.input(rng, width), case.input(rng, width), case.value(width));
        models.push(case.finish(Op::MatchMagnitude { x, like, out }));
        for half in [Half::F16, Half::Bf16] {
            let mut case = Case::default();
            let (x, out) = (case.input(rng, width), case.value(width));
            models.push(case.finish(Op::Map { x, f: Unary::Round(half), out }));
        }
    }
    for width in [37, 300] {
        let mut case = Case::default();
        let (x, out) = (case.input(rng, width), case.value(width));
        models.push(case.finish(Op::GaussianTopK { x, factor: 0.7, out }));
    }
    // Ids from 5 on are beyond the second table.
    let mut case = Case::default();
    let x = case.input(rng, 8);
    let values = (0..5 * 8).map(|_| rng.unit()).collect();
    let table = case.weight(WeightKind::Embedding, 8, 5, values);
    let (small, out) = (case.value(8), case.value(8));
    case.graph.ops.push(Op::Embed { table, scale: 2.0, out: small });
    models.push(case.finish(Op::MatchMagnitude { x, like: small, out }));
    models
}

fn check(model: &Model, rng: &mut Rng, mut forward: impl FnMut(&[u32], usize) -> Trace) {
    let mut naive = Naive::new(model);
    for n_tokens in [1, 5, 33] {
        let tokens: Vec<u32> = (0..n_tokens).map(|_| rng.below(N_VOCAB) as u32).collect();
        let parting = forward(&tokens, 0).first_parting(&naive.forward(&tokens, 0), TOLERANCE);
        assert_eq!(parting, None, "{n_tokens} tokens of {:?}", model.plan.graph.ops);
    }
}

#[test]
fn cpu_agrees_with_the_definitions() {
    for mode in [CpuMode::Exact, CpuMode::Fast] {
        let mut rng = Rng(21);
        for model in models(&mut rng) {
            let mut backend = CpuBackend::new(model.plan.clone(), mode).expect("backend");
            model.upload(&mut rng, &mut backend);
            check(&model, &mut rng, |tokens, pos| backend.forward_traced(tokens, pos).expect("forward"));
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn gpu_agrees_with_the_definitions() {
    let options = GpuOptions { minimal: true, ..GpuOptions::default() };
    let Some(device) = crate::gpu::device(options) else { return };
    let mut rng = Rng(22);
    for model in models(&mut rng) {
        let made = GpuBackend::new(model.plan.clone(), device.clone(), Precision::F32);
        let mut backend = block_on(made).expect("backend");
        model.upload(&mut rng, &mut backend);
        check(&model, &mut rng, |tokens, pos| {
            block_on(backend.forward_traced(tokens, pos)).expect("forward")
        });
    }
}

/// What rounding stands for in [`Naive`].
pub(crate) fn round(half: Half, x: f64) -> f64 {
    match half {
        Half::F16 => f16::from_f64(x).to_f64(),
        Half::Bf16 => bf16::from_f64(x).to_f64(),
    }
}
