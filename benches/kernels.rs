//! Criterion benches of the native CPU kernels, each as a graph of its op: `cargo bench --features cli --bench kernels [FILTER]`.
//! Natively the vectors are the scalar twin, so these are for comparing a change with what was, not with browsers.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::{Backend, KV_FORMATS, Outputs};
use lamplight::generate::{Sampler, SamplingParams};
use lamplight::model::graph::{
    Graph, KvDecl, Op, RopeDecl, RopeId, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind,
};
use lamplight::model::spec::{Activation, NormKind, NormSpec, RopeLayout, RopeScaling, RopeSpec};
use lamplight::tensor::DType;
use pollster::block_on;

#[path = "../tests/parity/support.rs"]
#[allow(dead_code, reason = "shared with the parity tests")]
mod support;
use support::{DTYPES, Model, Rng};

/// Widths of SmolLM2-135M, to the next multiple of 256: rows of every format are whole blocks.
const WIDTH: usize = 768;
const N_ROWS: usize = 1536;
const HEAD_DIM: usize = 64;
const N_HEADS: usize = 12;
const N_KV_HEADS: usize = 4;
/// Tokens of a prefill step.
const N_BATCH: usize = 32;
const N_CTX: usize = 1100;

fn weight(name: &str, n_cols: usize, n_rows: usize, kind: WeightKind) -> WeightDecl {
    WeightDecl { name: name.into(), part_of: None, n_cols, n_rows, kind }
}

/// Values of `widths` embedded from a table each, what `ops` make of them, and value `result` as the result.
fn graph(widths: &[usize], more: &[usize], weights: Vec<WeightDecl>, ops: &[Op], result: usize) -> Graph {
    let value = |(index, width): (usize, &usize)| ValueDecl {
        name: format!("v{index}"),
        width: *width,
        rows: Rows::Tokens,
    };
    let mut values: Vec<ValueDecl> = widths.iter().chain(more).enumerate().map(value).collect();
    let logits = ValueId(values.len());
    values.push(ValueDecl { name: "logits".into(), width: values[result].width, rows: Rows::Outputs });
    let tables = widths.iter().map(|width| weight("table", *width, 64, WeightKind::Embedding));
    let embed = |index| Op::Embed { table: WeightId(weights.len() + index), scale: 1.0, out: ValueId(index) };
    let mut all: Vec<Op> = (0..widths.len()).map(embed).collect();
    all.extend(ops.iter().cloned());
    all.push(Op::TakeOutputs { x: ValueId(result), out: logits });
    let weights = weights.iter().cloned().chain(tables).collect();
    Graph { weights, values, ops: all, logits: Some(logits), ..Graph::default() }
}

fn backend(graph: Graph, dtype: DType) -> CpuBackend {
    backend_with(graph, dtype, None)
}

fn backend_with(graph: Graph, dtype: DType, kv_cache: Option<DType>) -> CpuBackend {
    let mut rng = Rng(7);
    let mut model = Model::random(&mut rng, graph, dtype, N_CTX, N_BATCH);
    model.plan.kv_cache = kv_cache;
    let mut backend = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("the plan fits");
    model.upload(&mut rng, &mut backend);
    backend
}

fn measure(criterion: &mut Criterion, name: &str, backend: &mut CpuBackend, n_tokens: usize, pos: usize) {
    let tokens: Vec<u32> = (0..n_tokens as u32).map(|index| index * 5 % 64).collect();
    criterion.bench_function(name, |bench| {
        bench.iter(|| {
            block_on(backend.forward(black_box(&tokens), pos, Outputs::None)).expect("the step runs")
        });
    });
}

/// Products of every format: decoding, and a prefill step.
fn products(criterion: &mut Criterion) {
    for dtype in DTYPES {
        let matrix = vec![weight("matrix", WIDTH, N_ROWS, WeightKind::Matrix)];
        let (x, weight, out) = (ValueId(0), WeightId(0), ValueId(1));
        let op = Op::MatMul { x, weight, bias: None, add: None, scale: 1.0, out };
        let mut backend = backend(graph(&[WIDTH], &[N_ROWS], matrix, &[op], 1), dtype);
        measure(criterion, &format!("product/{dtype:?}/decode"), &mut backend, 1, 0);
        measure(criterion, &format!("product/{dtype:?}/prefill"), &mut backend, N_BATCH, 0);
    }
}

/// Rotation and attention over every format of the cache, decoding at two depths, and a prefill step.
fn attention(criterion: &mut Criterion) {
    let [q, k, v, out] = [0, 1, 2, 3].map(ValueId);
    let rotate = Op::RopeKvWrite {
        q,
        kv_rows: Some((k, v)),
        n_heads: N_HEADS,
        rope: Some(RopeId(0)),
        q_scale: None,
        kv: 0,
    };
    let attend = Op::Attention {
        q,
        kv: 0,
        n_heads: N_HEADS,
        scale: 0.125,
        window: None,
        softcap: None,
        causal: true,
        sinks: None,
        out,
    };
    let widths = [N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM];
    let with_cache = |ops: &[Op], more: &[usize], result, kv_cache| {
        let spec = RopeSpec {
            layout: RopeLayout::Neox,
            n_dims: HEAD_DIM,
            theta: 10_000.0,
            scaling: RopeScaling::None,
            freq_factors: false,
        };
        let mut graph = graph(&widths, more, Vec::new(), ops, result);
        graph.kv = vec![KvDecl { n_kv_heads: N_KV_HEADS, head_dim: HEAD_DIM, window: None }];
        graph.ropes = vec![RopeDecl { spec, factors: None, long_factors: None }];
        backend_with(graph, DType::F32, Some(kv_cache))
    };
    let mut rope = with_cache(std::slice::from_ref(&rotate), &[], 0, DType::F16);
    measure(criterion, "rope/decode", &mut rope, 1, 0);
    for kv_cache in KV_FORMATS {
        let mut both = with_cache(&[rotate.clone(), attend.clone()], &widths[..1], 3, kv_cache);
        for pos in [0, 1024] {
            measure(criterion, &format!("attention/{kv_cache:?}/decode at {pos}"), &mut both, 1, pos);
            measure(criterion, &format!("attention/{kv_cache:?}/prefill at {pos}"), &mut both, N_BATCH, pos);
        }
    }
}

fn elementwise(criterion: &mut Criterion) {
    let norm = Op::Norm {
        x: ValueId(0),
        norm: NormSpec { kind: NormKind::Rms, eps: 1e-5 },
        group: WIDTH,
        weight: Some(WeightId(0)),
        bias: None,
        add: None,
        out: ValueId(1),
    };
    let vector = vec![weight("norm", WIDTH, 1, WeightKind::Vector)];
    let mut norm = backend(graph(&[WIDTH], &[WIDTH], vector, &[norm], 1), DType::F32);
    measure(criterion, "norm", &mut norm, 1, 0);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let (gate, up, out) = (ValueId(0), ValueId(1), ValueId(2));
        let op = Op::GatedActivation { gate, up, activation, out };
        let graph = graph(&[N_ROWS, N_ROWS], &[N_ROWS], Vec::new(), &[op], 2);
        measure(criterion, &format!("activation/{activation:?}"), &mut backend(graph, DType::F32), 1, 0);
    }
}

fn sampling(criterion: &mut Criterion) {
    const N_VOCAB: usize = 49_152;
    let mut rng = Rng(3);
    let logits: Vec<f32> = (0..N_VOCAB).map(|_| 8.0 * rng.unit()).collect();
    let plain = SamplingParams::default();
    let cases = [
        ("greedy", SamplingParams { temperature: 0.0, ..plain.clone() }),
        ("temperature", SamplingParams { temperature: 0.8, ..plain }),
    ];
    for (name, params) in cases {
        let mut sampler = Sampler::new(&params, logits.len()).expect("good parameters");
        let mut copy = logits.clone();
        criterion.bench_function(&format!("sampling/{name}"), |bench| {
            bench.iter(|| {
                copy.copy_from_slice(&logits);
                sampler.sample(black_box(&mut copy), &[]).expect("finite logits")
            });
        });
    }
}

criterion_group!(kernels, products, attention, elementwise, sampling);
criterion_main!(kernels);
