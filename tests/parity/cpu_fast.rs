//! The fast CPU kernels against the exact ones.

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::{Backend, ModelPlan, Outputs};
use lamplight::model::graph::{Graph, Op, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use lamplight::tensor::DType;
use pollster::block_on;

use crate::support::{
    DTYPES, Model, Rng, decoded, graph, is_wide, random_bytes, shapes, shapes_for, widened,
};

/// Rounding of keys and values to f16 (2^-11; the products' own bounds are tested apart), carried through two layers of
/// random weights, as a share of the rms; the largest of all elements counts.
const MODEL_TOLERANCE: f32 = 6e-2;

fn pair(model: &Model, rng: &mut Rng) -> (CpuBackend, CpuBackend) {
    let mut fast = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
    let mut exact = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("exact");
    model.upload(rng, &mut fast);
    model.upload(rng, &mut exact);
    (fast, exact)
}

#[test]
fn fast_models_agree_with_exact_ones_op_by_op() {
    for (dtype_index, dtype) in DTYPES.into_iter().enumerate() {
        for shape_index in shapes_for(dtype_index, dtype, shapes().len()) {
            let shape = shapes().swap_remove(shape_index);
            let seed = (dtype_index * 100 + shape_index) as u64;
            println!("seed {seed}: {dtype:?}, {shape:?}");
            let shape = if is_wide(dtype) { widened(shape) } else { shape };
            let mut rng = Rng(seed);
            let model = Model::random(&mut rng, graph(&shape), dtype, 150, 17);
            let (mut fast, mut exact) = pair(&model, &mut rng);
            let mut pos = 0;
            for n_tokens in [1, 2, 3, 5, 17, 1, 16, 17, 17, 17, 17, 17, 3, 1] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let ours = fast.forward_traced(&tokens, pos).expect("fast");
                let theirs = exact.forward_traced(&tokens, pos).expect("exact");
                assert_eq!(ours.first_parting(&theirs, MODEL_TOLERANCE), None, "{n_tokens} tokens at {pos}");
                pos += n_tokens;
            }
        }
    }
}

/// `[n_tokens, n_cols]` taken from an F32 table, times one matrix, with every operand that a product can have.
fn product(rng: &mut Rng, dtype: DType, n_cols: usize, n_rows: usize, outlier: f32) -> Model {
    let weight = |name: &str, n_cols, n_rows, kind| WeightDecl {
        name: name.into(),
        part_of: None,
        n_cols,
        n_rows,
        kind,
    };
    let value = |name: &str, width, rows| ValueDecl { name: name.into(), width, rows };
    let graph = Graph {
        weights: vec![
            weight("table", n_cols, 17, WeightKind::Embedding),
            weight("matrix", n_cols, n_rows, WeightKind::Matrix),
            weight("bias", n_rows, 1, WeightKind::Vector),
        ],
        values: vec![
            value("x", n_cols, Rows::Tokens),
            value("first", n_rows, Rows::Tokens),
            value("second", n_rows, Rows::Tokens),
            value("logits", n_rows, Rows::Outputs),
        ],
        ops: vec![
            Op::Embed { table: WeightId(0), scale: 1.0, out: ValueId(0) },
            Op::MatMul {
                x: ValueId(0),
                weight: WeightId(1),
                bias: None,
                add: None,
                scale: 1.0,
                out: ValueId(1),
            },
            Op::MatMul {
                x: ValueId(0),
                weight: WeightId(1),
                bias: Some(WeightId(2)),
                add: Some(ValueId(1)),
                scale: 0.5,
                out: ValueId(2),
            },
            Op::MatMul {
                x: ValueId(0),
                weight: WeightId(1),
                bias: None,
                add: Some(ValueId(2)),
                scale: 1.0,
                out: ValueId(2),
            },
            Op::TakeOutputs { x: ValueId(2), out: ValueId(3) },
        ],
        logits: Some(ValueId(3)),
        ..Graph::default()
    };
    let mut table: Vec<f32> = (0..17 * n_cols).map(|_| rng.unit()).collect();
    for row in table.chunks_exact_mut(n_cols) {
        row[rng.below(n_cols)] *= outlier;
    }
    let bytes = vec![
        table.iter().flat_map(|v| v.to_le_bytes()).collect(),
        random_bytes(rng, dtype, n_cols * n_rows, 1.0),
        random_bytes(rng, DType::F32, n_rows, 1.0),
    ];
    Model {
        plan: ModelPlan {
            graph,
            dtypes: vec![DType::F32, dtype, DType::F32],
            n_ctx: 17,
            n_batch: 17,
            n_sequences: 1,
            kv_cache: None,
        },
        bytes,
    }
}

/// By how much the results of [`product`] may differ: half a unit of each rounded activation times its weight, twice
/// over for the sum of two products, and f32's own rounding.
fn rounding_bounds(model: &Model, x: &[f32]) -> Vec<f32> {
    let n_cols = model.plan.graph.weights[1].n_cols;
    let weights = decoded(model.plan.dtypes[1], &model.bytes[1]);
    let mut bounds = Vec::new();
    for x in x.chunks(n_cols) {
        for row in weights.chunks(n_cols) {
            let mut bound = 1e-5f32;
            for (x, row) in x.chunks(32).zip(row.chunks(32)) {
                let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let unit = largest / 32767.0;
                bound += row.iter().map(|w| w.abs() * 0.51 * unit).sum::<f32>();
                bound += row.iter().zip(x).map(|(w, x)| (w * x).abs() * 1e-6).sum::<f32>();
            }
            bounds.push(2.0 * bound);
        }
    }
    bounds
}

#[test]
fn products_of_every_format_agree_at_odd_shapes() {
    for (dtype_index, dtype) in DTYPES.into_iter().enumerate() {
        for (shape_index, n_rows) in [1, 2, 3, 4, 5, 7, 9, 66].into_iter().enumerate() {
            for (outlier_index, outlier) in [1.0, 1e3, 1e5].into_iter().enumerate() {
                let seed = (dtype_index * 100 + shape_index * 10 + outlier_index) as u64;
                println!("seed {seed}: {dtype:?}, {n_rows} rows, outliers of {outlier}");
                let mut rng = Rng(seed);
                let block_len = lamplight::quant::format(dtype).block_len;
                let n_cols = if block_len == 1 { 1 + rng.below(70) } else { block_len * (1 + rng.below(5)) };
                let model = product(&mut rng, dtype, n_cols, n_rows, outlier);
                let (mut fast, mut exact) = pair(&model, &mut rng);
                for n_tokens in [1, 2, 3, 5, 17, 4, 1] {
                    let tokens = model.random_tokens(&mut rng, n_tokens);
                    let ours = fast.forward_traced(&tokens, 0).expect("fast");
                    let theirs = exact.forward_traced(&tokens, 0).expect("exact");
                    assert_eq!(ours.values[0], theirs.values[0], "rows of the table");
                    let bounds = rounding_bounds(&model, &theirs.values[0].1);
                    for ((name, ours), (_, theirs)) in ours.values.iter().zip(&theirs.values).skip(1) {
                        for ((a, b), bound) in ours.iter().zip(theirs).zip(&bounds) {
                            assert!((a - b).abs() <= *bound, "{name}: {a} and {b} differ by over {bound}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_token_of_a_short_chunk_gets_what_it_gets_in_a_long_one() {
    for (seed, dtype) in DTYPES.into_iter().enumerate() {
        let mut rng = Rng(seed as u64);
        let n_cols = 2 * lamplight::quant::format(dtype).block_len.max(32);
        let model = product(&mut rng, dtype, n_cols, 7, 10.0);
        let (mut fast, _) = pair(&model, &mut rng);
        let tokens = model.random_tokens(&mut rng, 17);
        let long = fast.forward_traced(&tokens, 0).expect("long");
        for n_tokens in [2, 3, 4, 5] {
            let short = fast.forward_traced(&tokens[..n_tokens], 0).expect("short");
            for ((name, short), (_, long)) in short.values.iter().zip(&long.values) {
                assert_eq!(short[..], long[..short.len()], "{dtype:?}: {name} of {n_tokens} tokens");
            }
        }
    }
}

#[test]
fn embedding_rows_are_those_of_the_format() {
    for (seed, dtype) in DTYPES.into_iter().enumerate() {
        let mut rng = Rng(seed as u64);
        let shape = widened(shapes().swap_remove(0));
        let model = Model::random(&mut rng, graph(&shape), dtype, 17, 17);
        let (mut fast, mut exact) = pair(&model, &mut rng);
        let tokens = model.random_tokens(&mut rng, 17);
        let ours = fast.forward_traced(&tokens, 0).expect("fast");
        let theirs = exact.forward_traced(&tokens, 0).expect("exact");
        assert_eq!(ours.values[0], theirs.values[0], "{dtype:?}");
    }
}

/// Largest difference of `a` and `b` as a share of the rms of `a`.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let rms = (a.iter().map(|v| v * v).sum::<f32>() / a.len() as f32).sqrt();
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / rms).fold(0.0, f32::max)
}

#[test]
fn chunks_of_a_prompt_give_what_single_tokens_give() {
    for mode in [CpuMode::Fast, CpuMode::Exact] {
        for (seed, shape) in shapes().into_iter().enumerate() {
            println!("seed {seed}: {mode:?}, {shape:?}");
            let mut rng = Rng(seed as u64);
            let model = Model::random(&mut rng, graph(&shape), DType::Q4_1, 64, 17);
            let mut backend = CpuBackend::new(model.plan.clone(), mode).expect("backend");
            model.upload(&mut rng, &mut backend);
            let prompt = model.random_tokens(&mut rng, 40);
            let n_vocab = shape.n_vocab;
            let mut expected = Vec::new();
            for (pos, token) in prompt.iter().enumerate() {
                expected.extend(block_on(backend.forward(&[*token], pos, Outputs::Last)).expect("token"));
            }
            for chunk in [2, 5, 16, 17] {
                let mut got = Vec::new();
                for (index, tokens) in prompt.chunks(chunk).enumerate() {
                    let logits = block_on(backend.forward(tokens, index * chunk, Outputs::All));
                    got.extend(logits.expect("chunk"));
                }
                // The same sums in the same order, whatever the chunk: nothing may differ but the last bits.
                let worst = difference(&expected, &got);
                assert!(worst < 1e-5, "chunks of {chunk} differ by {worst}");
            }
            // Going back: other tokens from position 13 on, then the first ones again.
            let others = model.random_tokens(&mut rng, 9);
            block_on(backend.forward(&others, 13, Outputs::None)).expect("rewritten");
            let logits = block_on(backend.forward(&prompt[13..30], 13, Outputs::Last)).expect("again");
            let worst = difference(&expected[29 * n_vocab..30 * n_vocab], &logits);
            assert!(worst < 1e-5, "after going back, logits differ by {worst}");
        }
    }
}

#[test]
fn a_step_without_outputs_computes_no_logits() {
    let mut rng = Rng(1);
    let model = Model::random(&mut rng, graph(&shapes()[0]), DType::Q8_0, 20, 8);
    let (mut fast, _) = pair(&model, &mut rng);
    assert_eq!(block_on(fast.forward(&[1, 2, 3], 0, Outputs::None)).expect("none"), Vec::<f32>::new());
    assert_eq!(block_on(fast.forward(&[1, 2, 3], 3, Outputs::All)).expect("all").len(), 303);
    assert_eq!(fast.counters().steps, 2);
    let weights: usize = model.bytes.iter().map(Vec::len).sum();
    assert!(fast.memory_bytes() as usize > weights);
}
