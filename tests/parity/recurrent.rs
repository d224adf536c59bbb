//! Recurrent ops on every backend against their definitions, in steps of all lengths and from the start again.

use lamplight::backend::cpu::{CpuBackend, CpuMode};
#[cfg(feature = "gpu")]
use lamplight::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision};
use lamplight::backend::{Backend, ModelPlan, Outputs, Trace};
use lamplight::error::ErrorCode;
use lamplight::model::graph::{
    Graph, Op, Operand, Rows, StateDecl, StateId, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind,
};
use lamplight::tensor::DType;
use pollster::block_on;

use crate::naive::Naive;
use crate::support::{Model, Rng};

/// Roundings of f32 sums over a head, carried from token to token.
const TOLERANCE: f32 = 1e-4;
pub(crate) const N_VOCAB: usize = 40;
const N_CTX: usize = 70;
const N_BATCH: usize = 33;

/// A graph of looked-up inputs and one op; its weights' values.
#[derive(Default)]
pub(crate) struct Case {
    pub(crate) graph: Graph,
    weights: Vec<Vec<f32>>,
}

impl Case {
    pub(crate) fn weight(
        &mut self,
        kind: WeightKind,
        n_cols: usize,
        n_rows: usize,
        values: Vec<f32>,
    ) -> WeightId {
        let name = format!("weight {}", self.weights.len());
        self.graph.weights.push(WeightDecl { name, part_of: None, n_cols, n_rows, kind });
        assert_eq!(values.len(), n_cols * n_rows);
        self.weights.push(values);
        WeightId(self.weights.len() - 1)
    }

    fn vector(&mut self, rng: &mut Rng, width: usize, around: f32) -> WeightId {
        let values = (0..width).map(|_| around + rng.unit()).collect();
        self.weight(WeightKind::Vector, width, 1, values)
    }

    pub(crate) fn value(&mut self, width: usize) -> ValueId {
        let name = format!("value {}", self.graph.values.len());
        self.graph.values.push(ValueDecl { name, width, rows: Rows::Tokens });
        ValueId(self.graph.values.len() - 1)
    }

    /// Rows of random numbers, one for each token id.
    pub(crate) fn input(&mut self, rng: &mut Rng, width: usize) -> ValueId {
        let values = (0..N_VOCAB * width).map(|_| 2.0 * rng.unit()).collect();
        let table = self.weight(WeightKind::Embedding, width, N_VOCAB, values);
        let out = self.value(width);
        self.graph.ops.push(Op::Embed { table, scale: 1.0, out });
        out
    }

    fn state(&mut self, len: usize, init: f32) -> StateId {
        self.graph.states.push(StateDecl { len, init });
        StateId(self.graph.states.len() - 1)
    }

    pub(crate) fn finish(mut self, op: Op) -> Model {
        let x = op.writes();
        let width = self.graph.values[x.0].width;
        let out = self.value(width);
        self.graph.values[out.0].rows = Rows::Outputs;
        self.graph.ops.extend([op, Op::TakeOutputs { x, out }]);
        self.graph.logits = Some(out);
        let dtypes = vec![DType::F32; self.weights.len()];
        let plan = ModelPlan {
            graph: self.graph,
            dtypes,
            n_ctx: N_CTX,
            n_batch: N_BATCH,
            n_sequences: 1,
            kv_cache: None,
        };
        let bytes = |values: &Vec<f32>| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Model { plan, bytes: self.weights.iter().map(bytes).collect() }
    }
}

fn by_channel(rng: &mut Rng) -> Vec<Model> {
    let mut models = Vec::new();
    for width in [1, 37, 200] {
        let mut case = Case::default();
        let (x, out, state) = (case.input(rng, width), case.value(width), case.state(width, 0.0));
        models.push(case.finish(Op::TokenShift { x, state, out }));

        let mut case = Case::default();
        let (k, v, out) = (case.input(rng, width), case.input(rng, width), case.value(width));
        let (decay, first) = (case.vector(rng, width, -2.0), case.vector(rng, width, 0.5));
        let (sums, max) = (case.state(2 * width, 0.0), case.state(width, -1e38));
        models.push(case.finish(Op::Wkv4 { k, v, decay, first, sums, max, out }));

        for (kernel, biased) in [(2, true), (3, false), (4, true)] {
            let mut case = Case::default();
            let (x, out) = (case.input(rng, width), case.value(width));
            let weight = case.vector(rng, width * kernel, 0.0);
            let bias = biased.then(|| case.vector(rng, width, 0.0));
            let state = case.state((kernel - 1) * width, 0.0);
            models.push(case.finish(Op::ShortConv { x, weight, bias, kernel, state, out }));
        }
    }
    models
}

fn wkv6(rng: &mut Rng, head_dim: usize, n_heads: usize) -> Vec<Model> {
    let width = n_heads * head_dim;
    let mut models = Vec::new();
    for (constant, bonus, n_kv_heads) in [(true, true, n_heads), (false, true, n_heads), (false, false, 1)] {
        let mut case = Case::default();
        let (r, out) = (case.input(rng, width), case.value(width));
        let (k, v) = (case.input(rng, n_kv_heads * head_dim), case.input(rng, n_kv_heads * head_dim));
        let decay = match constant {
            true => Operand::Vector(case.vector(rng, width, -2.0)),
            false => Operand::Value(case.input(rng, width)),
        };
        let first = bonus.then(|| case.vector(rng, width, 0.0));
        let state = case.state(width * head_dim, 0.0);
        let scale = 0.5;
        let op = Op::Wkv6 { r, k, v, decay, first, n_heads, n_kv_heads, scale, state, out };
        models.push(case.finish(op));
    }
    models
}

fn wkv7(rng: &mut Rng, head_dim: usize, n_heads: usize) -> Model {
    let width = n_heads * head_dim;
    let mut case = Case::default();
    let [k, rate, r, decay, v] = std::array::from_fn(|_| case.input(rng, width));
    let (keys, mixed, out) = (case.value(3 * width), case.value(width), case.value(width));
    let (removal, replacement) = (case.vector(rng, width, 1.0), case.vector(rng, width, 1.0));
    let weight = case.vector(rng, width, 0.0);
    let state = case.state(width * head_dim, 0.0);
    case.graph.ops.push(Op::Wkv7Keys { k, rate, removal, replacement, n_heads, out: keys });
    case.graph.ops.push(Op::Wkv7 { r, decay, keys, v, n_heads, state, out: mixed });
    case.graph.ops.push(Op::Wkv7Bonus { x: mixed, r, keys, v, weight, n_heads, out });
    // In place the second time.
    case.finish(Op::Wkv7Bonus { x: out, r, keys, v, weight, n_heads, out })
}

fn gated_delta(rng: &mut Rng, head_dim: usize, n_k_heads: usize, n_v_heads: usize, tiled: bool) -> Model {
    let mut case = Case::default();
    let qkv = case.input(rng, (2 * n_k_heads + n_v_heads) * head_dim);
    let (alpha, beta) = (case.input(rng, n_v_heads), case.input(rng, n_v_heads));
    let (decay, dt_bias) = (case.vector(rng, n_v_heads, -1.1), case.vector(rng, n_v_heads, -1.0));
    let state = case.state(n_v_heads * head_dim * head_dim, 0.0);
    let out = case.value(n_v_heads * head_dim);
    case.finish(Op::GatedDelta { qkv, alpha, beta, decay, dt_bias, n_k_heads, n_v_heads, tiled, state, out })
}

fn models(rng: &mut Rng) -> Vec<Model> {
    let mut models = by_channel(rng);
    for (head_dim, n_heads) in [(32, 3), (64, 2), (7, 5), (128, 1)] {
        models.extend(wkv6(rng, head_dim, n_heads));
        models.push(wkv7(rng, head_dim, n_heads));
    }
    models.push(gated_delta(rng, 32, 1, 1, false));
    models.push(gated_delta(rng, 16, 2, 6, false));
    models.push(gated_delta(rng, 16, 2, 6, true));
    models.push(gated_delta(rng, 128, 1, 2, true));
    models
}

fn check(model: &Model, rng: &mut Rng, mut forward: impl FnMut(&[u32], usize) -> Trace) {
    let mut naive = Naive::new(model);
    for steps in [&[1, 2, 5, 33, 3, 1][..], &[33, 1]] {
        let mut pos = 0;
        for n_tokens in steps {
            let tokens: Vec<u32> = (0..*n_tokens).map(|_| rng.below(N_VOCAB) as u32).collect();
            let trace = forward(&tokens, pos);
            let parting = trace.first_parting(&naive.forward(&tokens, pos), TOLERANCE);
            assert_eq!(parting, None, "{n_tokens} tokens at {pos} of {:?}", model.plan.graph.ops);
            pos += n_tokens;
        }
    }
}

/// Steps elsewhere than at the start or at the end of the last one.
fn check_order(backend: &mut impl Backend) {
    let mut forward = |pos: usize| {
        let result = block_on(backend.forward(&[1, 2], pos, Outputs::Last));
        result.map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(forward(0), Ok(()));
    assert_eq!(forward(2), Ok(()));
    assert_eq!(forward(3), Err(ErrorCode::Internal));
    assert_eq!(forward(4), Ok(()), "a refused step changes nothing");
    assert_eq!(forward(4), Err(ErrorCode::Internal));
    assert_eq!(forward(0), Ok(()));
}

#[test]
fn cpu_agrees_with_the_definitions() {
    for mode in [CpuMode::Exact, CpuMode::Fast] {
        let mut rng = Rng(11);
        for model in models(&mut rng) {
            let mut backend = CpuBackend::new(model.plan.clone(), mode).expect("backend");
            model.upload(&mut rng, &mut backend);
            check(&model, &mut rng, |tokens, pos| backend.forward_traced(tokens, pos).expect("forward"));
            check_order(&mut backend);
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn gpu_agrees_with_the_definitions() {
    let options = GpuOptions { minimal: true, ..GpuOptions::default() };
    let Some(device) = crate::gpu::device(options) else { return };
    let mut rng = Rng(12);
    for model in models(&mut rng) {
        let made = GpuBackend::new(model.plan.clone(), GpuDevice::clone(&device), Precision::F32);
        let mut backend = block_on(made).expect("backend");
        model.upload(&mut rng, &mut backend);
        check(&model, &mut rng, |tokens, pos| {
            block_on(backend.forward_traced(tokens, pos)).expect("forward")
        });
        check_order(&mut backend);
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let mut rng = Rng(13);
    for model in models(&mut rng) {
        let refused = |plan: ModelPlan| CpuBackend::new(plan, CpuMode::Exact).err().map(|error| error.code());
        assert_eq!(refused(model.plan.clone()), None);
        for value in 0..model.plan.graph.values.len() {
            let mut plan = model.plan.clone();
            plan.graph.values[value].width += 1;
            assert_eq!(refused(plan), Some(ErrorCode::Internal), "value {value} widened");
        }
        for state in 0..model.plan.graph.states.len() {
            let mut plan = model.plan.clone();
            plan.graph.states[state].len += 1;
            assert_eq!(refused(plan), Some(ErrorCode::Internal), "state {state} lengthened");
        }
    }
}
