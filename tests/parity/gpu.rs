//! The GPU backend against the naive interpreter and against itself, on whatever adapter there is (a software one will
//! do). Without any adapter these tests say so and pass, unless LAMPLIGHT_REQUIRE_GPU is set.

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::gpu::kernels::{MatMulTile, MatVecShape};
use lamplight::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision, Tuning};
use lamplight::backend::{Backend, Outputs};
use lamplight::error::ErrorCode;
use lamplight::model::graph::{Op, WeightId};
use lamplight::model::spec::{
    Activation, FfnSpec, Gating, MixerSpec, MoeSpec, NormKind, NormSpec, QkNorm, QkNormOver, Routing,
};
use lamplight::tensor::DType;
use pollster::block_on;

use crate::naive::Naive;
use crate::support::{DTYPES, Model, Rng, Shape, graph, graph_with, is_wide, shapes, shapes_for, widened};

/// The roundings of f32 sums of a few hundred terms, carried through two layers.
const F32_TOLERANCE: f32 = 2e-4;
/// Half floats in the cache and in the mat-mul's weights round to one part in 2048 each; the largest elements, and the
/// exponentials of large scores, show it most.
const F16_TOLERANCE: f32 = 8e-2;

/// The reference rounds activations as well, but a few stand between two steps.
const PACKED_TOLERANCE: f32 = 1e-2;

#[allow(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn device(options: GpuOptions) -> Option<GpuDevice> {
    match block_on(GpuDevice::request(options)) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var_os("LAMPLIGHT_REQUIRE_GPU").is_some_and(|value| !value.is_empty());
            assert!(!required, "{error}");
            println!("SKIPPED: {error}");
            None
        }
    }
}

pub(crate) fn model(rng: &mut Rng, dtype: DType, shape: usize) -> Model {
    let shape = shapes().swap_remove(shape);
    let shape = if is_wide(dtype) { widened(shape) } else { shape };
    Model::random(rng, graph(&shape), dtype, 80, 67)
}

fn float_tiles() -> Vec<MatMulTile> {
    MatMulTile::ALL.into_iter().filter(|tile| !tile.packed).collect()
}

pub(crate) fn backend(model: &Model, device: &GpuDevice, precision: Precision, tuning: Tuning) -> GpuBackend {
    block_on(GpuBackend::with_tuning(model.plan.clone(), device.clone(), precision, tuning)).expect("backend")
}

/// Steps of 1 (decode), of a few, of a whole and of more than one tile, and decode again, from the definitions.
fn check_model(model: &Model, rng: &mut Rng, backend: &mut GpuBackend, tolerance: f32) {
    model.upload(rng, backend);
    let mut naive = Naive::new(model);
    let mut pos = 0;
    for n_tokens in [1, 2, 5, 67, 3, 1] {
        let tokens = model.random_tokens(rng, n_tokens);
        let trace = block_on(backend.forward_traced(&tokens, pos)).expect("forward");
        let parting = trace.first_parting(&naive.forward(&tokens, pos), tolerance);
        assert_eq!(parting, None, "{n_tokens} tokens at {pos}");
        pos += n_tokens;
    }
}

#[test]
fn every_op_agrees_with_its_definition_in_every_format() {
    let Some(device) = device(GpuOptions { minimal: true, ..GpuOptions::default() }) else { return };
    for (dtype_index, dtype) in DTYPES.into_iter().enumerate() {
        for shape in shapes_for(dtype_index, dtype, shapes().len()) {
            let seed = (dtype_index * 100 + shape) as u64;
            println!("seed {seed}: {dtype:?}, shape {shape}");
            let mut rng = Rng(seed);
            let model = model(&mut rng, dtype, shape);
            let few_rows = Some(1 + 3 * (dtype_index % 2));
            let tuning = Tuning { few_rows, ..Tuning::default() };
            let mut backend = backend(&model, &device, Precision::F32, tuning);
            check_model(&model, &mut rng, &mut backend, F32_TOLERANCE);
        }
    }
}

#[test]
fn half_floats_stay_close() {
    let Some(device) = device(GpuOptions::default()) else { return };
    if !device.info().shader_f16 {
        println!("SKIPPED: this adapter has no shader-f16");
        return;
    }
    // The self-check tries every format in half floats where there are any.
    for (shape, dtype) in [
        (0, DType::Q4_1),
        (1, DType::F16),
        (2, DType::Q6_K),
        (3, DType::Q8_0),
        (4, DType::BF16),
        (5, DType::Q2_K),
        (0, DType::IQ2_S),
        (1, DType::MXFP4),
    ] {
        let mut rng = Rng(shape as u64);
        let model = model(&mut rng, dtype, shape);
        // In the tiles of hardware, where half floats are: one after the other.
        let tile = Some(float_tiles()[shape % float_tiles().len()]);
        let mut backend = backend(&model, &device, Precision::F16, Tuning { tile, ..Tuning::default() });
        check_model(&model, &mut rng, &mut backend, F16_TOLERANCE);
    }
}

#[test]
fn weights_cut_into_small_parts_and_folded_grids_change_nothing() {
    let Some(device) = device(GpuOptions::default()) else { return };
    for (shape, dtype) in [
        (0, DType::Q4_0),
        (1, DType::Q4_1),
        (3, DType::F16),
        (0, DType::Q6_K),
        (1, DType::MXFP4),
        (0, DType::F8_E4M3),
        (1, DType::IQ1_M),
        (0, DType::IQ3_S),
    ] {
        let mut rng = Rng(40 + shape as u64);
        let model = model(&mut rng, dtype, shape);
        // Room for a few rows only, so every matrix has several parts, some of odd length.
        let max_part_bytes = 2300 + size_of_val(lamplight::quant::format(dtype).table) as u64;
        let tuning = Tuning { max_part_bytes, fold_workgroups: 2, ..Tuning::default() };
        let mut backend =
            backend(&model, &device, Precision::F32, Tuning { logits_bytes: 1 << 20, ..tuning });
        check_parts(&model, &mut rng, &mut backend);
    }
}

/// As [`check_model`] in smaller steps: rows of logits are limited by the same small bindings.
fn check_parts(model: &Model, rng: &mut Rng, backend: &mut GpuBackend) {
    model.upload(rng, backend);
    let mut naive = Naive::new(model);
    for (pos, n_tokens) in [(0, 1), (1, 5), (6, 1)] {
        let tokens = model.random_tokens(rng, n_tokens);
        let n_vocab = model.plan.graph.values[model.plan.graph.logits.expect("logits").0].width;
        let logits = block_on(backend.forward(&tokens, pos, Outputs::All)).expect("forward");
        let expected = naive.forward(&tokens, pos).values.pop().expect("logits").1;
        assert_eq!(logits.len(), n_tokens * n_vocab);
        close(&logits, &expected, F32_TOLERANCE);
    }
}

pub(crate) fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let rms = (expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32).sqrt();
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * rms, "element {index}: {a} where {b} was expected");
    }
}

/// Real head widths, long contexts: several tiles of keys, whole ones masked by the window, groups of many sizes; with
/// the keys of decoded tokens cut into short runs, and not; by way of workgroup memory and of subgroups.
#[test]
fn attention_holds_for_wide_heads_and_long_contexts() {
    let Some(device) = device(GpuOptions::default()) else { return };
    for (run_keys, hand_on) in [(1, Some(false)), (1, None), (128, None), (4096, Some(false))] {
        check_attention(&device, Tuning { run_keys, hand_on, few_rows: Some(4), ..Tuning::default() });
    }
}

#[allow(clippy::print_stdout, reason = "a failing test shows its case")]
fn check_attention(device: &GpuDevice, tuning: Tuning) {
    let cases = [
        (64, 9, 3, None),
        (80, 4, 4, None),
        (50, 4, 2, None),
        (128, 8, 1, Some(70)),
        (256, 2, 1, None),
        (96, 12, 2, Some(1)),
        (32, 18, 2, Some(100)),
    ];
    for (seed, (head_dim, n_heads, n_kv_heads, window)) in cases.into_iter().enumerate() {
        println!("head_dim {head_dim}, {n_heads} over {n_kv_heads} heads, window {window:?}");
        let rope = Some((lamplight::model::spec::RopeLayout::Neox, head_dim));
        let plain = shapes().swap_remove(0);
        let shape = Shape { head_dim, n_heads, n_kv_heads, window, rope, n_embd: 32, n_ff: 32, ..plain };
        let mut rng = Rng(50 + seed as u64);
        let model = Model::random(&mut rng, graph(&shape), DType::F32, 180, 130);
        let mut backend = backend(&model, device, Precision::F32, tuning);
        model.upload(&mut rng, &mut backend);
        let mut naive = Naive::new(&model);
        let mut pos = 0;
        for n_tokens in [1, 129, 1, 4, 33, 2] {
            let tokens = model.random_tokens(&mut rng, n_tokens);
            let trace = block_on(backend.forward_traced(&tokens, pos)).expect("forward");
            let parting = trace.first_parting(&naive.forward(&tokens, pos), F32_TOLERANCE);
            assert_eq!(parting, None, "{n_tokens} tokens at {pos}");
            pos += n_tokens;
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_logits() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(3);
    let model = model(&mut rng, DType::Q5_1, 2);
    let mut backend = backend(&model, &device, Precision::F32, Tuning::default());
    model.upload(&mut rng, &mut backend);
    let tokens = model.random_tokens(&mut rng, 61);
    let whole = block_on(backend.forward(&tokens, 0, Outputs::All)).expect("forward");
    let n_vocab = whole.len() / tokens.len();
    for chunk in [1, 4, 7, 33] {
        let mut pos = 0;
        for tokens in tokens.chunks(chunk) {
            let last = block_on(backend.forward(tokens, pos, Outputs::Last)).expect("forward");
            pos += tokens.len();
            close(&last, &whole[(pos - 1) * n_vocab..][..n_vocab], F32_TOLERANCE);
        }
    }
    // Going back overwrites what was cached.
    let again = block_on(backend.forward(&tokens[5..9], 5, Outputs::Last)).expect("forward");
    close(&again, &whole[8 * n_vocab..][..n_vocab], F32_TOLERANCE);
    // All logits in slices of a few rows are the same logits.
    let tuning = Tuning { logits_bytes: (5 * n_vocab * 4) as u64, ..Tuning::default() };
    let mut sliced = self::backend(&model, &device, Precision::F32, tuning);
    model.upload(&mut rng, &mut sliced);
    let slices = block_on(sliced.forward(&tokens, 0, Outputs::All)).expect("forward");
    close(&slices, &whole, F32_TOLERANCE);
}

/// The fused launches of decoding are what all tests here run; one op a launch gives the same.
#[test]
fn unfused_steps_agree_too() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let tuning = Tuning { fuse: false, ..Tuning::default() };
    for (shape, dtype) in [(0, DType::Q4_1), (2, DType::Q6_K), (3, DType::F16), (4, DType::F32)] {
        let mut rng = Rng(60 + shape as u64);
        let model = model(&mut rng, dtype, shape);
        let mut backend = backend(&model, &device, Precision::F32, tuning);
        check_model(&model, &mut rng, &mut backend, F32_TOLERANCE);
    }
}

/// Other tests run what suits the device; with more and fewer rows a lane, with and without tiles, products are the same.
#[test]
fn rows_a_lane_and_tiles_change_nothing() {
    let Some(device) = device(GpuOptions::default()) else { return };
    for (shape, dtype) in [(0, DType::Q4_1), (1, DType::Q4_K), (3, DType::F16), (5, DType::Q8_0)] {
        for (index, mat_vec) in MatVecShape::ALL.into_iter().enumerate() {
            let mut rng = Rng(80 + shape as u64);
            let model = model(&mut rng, dtype, shape);
            let tile = Some(float_tiles()[index % float_tiles().len()]);
            let subgroups = Some((index + shape) % 2 == 0);
            let hand_on = Some(shape % 2 == 0);
            // Steps of up to so many rows take several at once.
            let few_rows = 1 + 2 * index;
            let usual = Tuning { few_rows: Some(few_rows), ..Tuning::default() };
            let tuning = Tuning { mat_vec: Some(mat_vec), tile, subgroups, hand_on, ..usual };
            let mut backend = backend(&model, &device, Precision::F32, tuning);
            check_model(&model, &mut rng, &mut backend, F32_TOLERANCE);
        }
    }
}

/// Activations rounded to 8 bits, with weights in every format whose codes are such integers.
#[test]
fn packed_products_are_near() {
    let Some(device) = device(GpuOptions::default()) else { return };
    for tile in MatMulTile::ALL.into_iter().filter(|tile| tile.packed) {
        let formats = DTYPES.into_iter().filter(|dtype| tile.of_weights(*dtype, 256).0 == tile);
        for (index, dtype) in formats.enumerate() {
            let mut rng = Rng(90 + index as u64);
            let model = model(&mut rng, dtype, index % 6);
            let tuning = Tuning { tile: Some(tile), few_rows: Some(1), ..Tuning::default() };
            let mut backend = backend(&model, &device, Precision::F32, tuning);
            model.upload(&mut rng, &mut backend);
            let mut naive = Naive::new(&model);
            naive.rounds = true;
            for (n_tokens, pos) in [(5, 0), (67, 5)] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let trace = block_on(backend.forward_traced(&tokens, pos)).expect("forward");
                let expected = naive.forward_from(&tokens, pos, &trace);
                assert_eq!(trace.first_parting(&expected, PACKED_TOLERANCE), None, "{dtype:?} at {pos}");
            }
        }
    }
}

/// Issue 4's bound for a dense layer, with norms of the heads and keys in several runs: seven dispatches.
#[test]
fn a_dense_layer_takes_seven_dispatches() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(9);
    for (qk_norm, fuse, per_layer, more) in [(false, true, 7, 3), (true, true, 7, 3), (true, false, 15, 4)] {
        let graph = graph_with(&shapes().swap_remove(1), |spec| {
            for layer in &mut spec.layers {
                if let MixerSpec::Attention(attention) = &mut layer.mixer {
                    let norm = NormSpec { kind: NormKind::Rms, eps: 1e-6 };
                    attention.qk_norm = qk_norm.then_some(QkNorm { norm, over: QkNormOver::Head });
                }
            }
        });
        let model = Model::random(&mut rng, graph, DType::Q4_0, 140, 67);
        let tuning = Tuning { fuse, run_keys: 64, ..Tuning::default() };
        let mut backend = backend(&model, &device, Precision::F32, tuning);
        model.upload(&mut rng, &mut backend);
        block_on(backend.forward(&model.random_tokens(&mut rng, 67), 0, Outputs::None)).expect("prefill");
        let before = backend.counters();
        block_on(backend.forward(&[7], 67, Outputs::Last)).expect("decode");
        // Embedding, (choice of outputs,) norm and head besides.
        assert_eq!(backend.counters().dispatches - before.dispatches, 2 * per_layer + more);
    }
}

/// But for one that the KV cache grows for (pages.rs).
#[test]
fn a_decoded_token_makes_no_object_and_submits_once() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(4);
    let model = model(&mut rng, DType::Q4_1, 0);
    let mut backend = backend(&model, &device, Precision::F32, Tuning::default());
    model.upload(&mut rng, &mut backend);
    block_on(backend.forward(&[1, 2, 3], 0, Outputs::None)).expect("prefill");
    for pos in 3..6 {
        let before = backend.counters();
        block_on(backend.forward(&[7], pos, Outputs::Last)).expect("decode");
        let after = backend.counters();
        assert_eq!(after.buffers, before.buffers);
        assert_eq!(after.bind_groups, before.bind_groups);
        assert_eq!(after.submits - before.submits, 1);
        assert_eq!(after.queue_writes - before.queue_writes, 1);
        assert_eq!(after.readback_bytes - before.readback_bytes, 101 * 4);
        // Two layers of six dispatches (no runs of keys to put together yet); embedding, norm of the output, head.
        assert_eq!(after.dispatches - before.dispatches, 2 * 6 + 3);
        assert_eq!(after.passes - before.passes, 1);
        assert_eq!(after.steps - before.steps, 1);
    }
    let weights: u64 = model.bytes.iter().map(|bytes| bytes.len() as u64).sum();
    assert!(backend.memory_bytes() > weights, "{} bytes", backend.memory_bytes());
}

#[test]
fn outliers_do_not_overflow() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let precisions = match device.info().shader_f16 {
        true => vec![Precision::F32, Precision::F16],
        false => vec![Precision::F32],
    };
    for precision in precisions {
        let mut rng = Rng(5);
        let mut model = model(&mut rng, DType::F32, 0);
        // One direction of the residual stream towers over the rest, as in trained models, beyond what f16 holds
        // (weights themselves never are).
        let graph = &model.plan.graph;
        let (down, n_cols) = graph
            .weights
            .iter()
            .position(|decl| decl.name == "blk.0.ffn_down.weight")
            .map(|index| (index, graph.weights[index].n_cols))
            .expect("ffn_down");
        for element in model.bytes[down][..n_cols * 4].chunks_exact_mut(4) {
            element.copy_from_slice(&3e4_f32.to_le_bytes());
        }
        let mut gpu = backend(&model, &device, precision, Tuning::default());
        let mut cpu = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("backend");
        model.upload(&mut rng, &mut gpu);
        model.upload(&mut rng, &mut cpu);
        let tokens = model.random_tokens(&mut rng, 37);
        let found = block_on(gpu.forward(&tokens, 0, Outputs::All)).expect("forward");
        let expected = block_on(cpu.forward(&tokens, 0, Outputs::All)).expect("forward");
        close(&found, &expected, if precision == Precision::F32 { 1e-3 } else { 5e-2 });
    }
}

#[test]
fn the_smallest_device_has_what_every_device_has() {
    for minimal in [false, true] {
        let Some(device) = device(GpuOptions { minimal, ..GpuOptions::default() }) else { return };
        assert!(device.info().max_binding_bytes >= 128 << 20);
        assert!(!minimal || !device.info().shader_f16);
    }
}

#[test]
fn wrong_calls_are_typed_errors() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(7);
    let model = model(&mut rng, DType::Q4_1, 0);
    let mut backend = backend(&model, &device, Precision::F32, Tuning::default());
    let code = |result: Result<Vec<f32>, lamplight::error::Error>| result.map_err(|error| error.code()).err();
    assert_eq!(code(block_on(backend.forward(&[1], 0, Outputs::Last))), Some(ErrorCode::Internal));
    let incomplete = block_on(backend.finish_upload()).expect_err("weights are missing");
    assert_eq!(incomplete.code(), ErrorCode::Truncated);
    assert_eq!(incomplete.field(), Some("token_embd.weight"));
    for (weight, offset, n_bytes) in [(0, 4, 4), (0, 0, 1 << 20), (999, 0, 4), (0, 0, 6)] {
        let error = backend.upload(weight, offset, &vec![0; n_bytes]).expect_err("no such piece");
        assert_eq!(error.code(), ErrorCode::Internal);
    }
    model.upload(&mut rng, &mut backend);
    let calls: [(&[u32], usize); 6] =
        [(&[], 0), (&[101], 0), (&[u32::MAX], 0), (&[1; 68], 0), (&[1], 80), (&[1, 1], usize::MAX)];
    for (tokens, pos) in calls {
        let result = block_on(backend.forward(tokens, pos, Outputs::Last));
        assert_eq!(code(result), Some(ErrorCode::InvalidRequest), "{tokens:?} at {pos}");
    }
    let logits = block_on(backend.forward(&[100], 79, Outputs::Last)).expect("the last position");
    assert_eq!(logits.len(), 101);
}

#[test]
fn what_does_not_fit_is_refused_with_its_size() {
    let Some(device) = device(GpuOptions { minimal: true, ..GpuOptions::default() }) else { return };
    let refused = |plan: lamplight::backend::ModelPlan, precision, tuning| {
        let result = block_on(GpuBackend::with_tuning(plan, device.clone(), precision, tuning));
        result.map(|_| ()).expect_err("it does not fit")
    };
    let model = model(&mut Rng(8), DType::Q4_1, 0);
    let wide = lamplight::backend::ModelPlan { n_ctx: 1 << 22, ..model.plan.clone() };
    let error = refused(wide, Precision::F32, Tuning::default());
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
    assert!(error.message().contains("134217728"), "{error}");
    let narrow = Tuning { max_part_bytes: 30, ..Tuning::default() };
    let error = refused(model.plan.clone(), Precision::F32, narrow);
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
    assert!(error.message().contains("token_embd.weight"), "{error}");
    // A minimal device has no half floats.
    let error = refused(model.plan.clone(), Precision::F16, Tuning::default());
    assert_eq!(error.code(), ErrorCode::InvalidRequest);
    let shape = Shape { head_dim: 9, rope: None, ..shapes().swap_remove(0) };
    let odd = Model::random(&mut Rng(9), graph(&shape), DType::F32, 8, 4);
    let error = refused(odd.plan, Precision::F32, Tuning::default());
    assert_eq!(error.code(), ErrorCode::InvalidValue);
}

#[test]
fn a_lost_device_is_told_by_every_later_call() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(10);
    let model = model(&mut rng, DType::Q4_1, 0);
    let mut backend = backend(&model, &device, Precision::F32, Tuning::default());
    model.upload(&mut rng, &mut backend);
    block_on(backend.forward(&[1], 0, Outputs::Last)).expect("forward");
    device.destroy();
    assert!(backend.device().is_lost());
    for _ in 0..2 {
        let error = block_on(backend.forward(&[1], 1, Outputs::Last)).expect_err("the device is gone");
        assert_eq!(error.code(), ErrorCode::GpuLost);
    }
    let again = block_on(GpuBackend::new(model.plan.clone(), device, Precision::F32));
    assert_eq!(again.err().map(|error| error.code()), Some(ErrorCode::GpuLost));
}

/// A step that is taken apart for its times leaves what a plain one leaves, and tells each launch with the bytes of weights
/// that it reads: of a table the tokens' rows, of experts the chosen ones.
#[test]
fn a_profiled_step_is_a_plain_one_with_times() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let routing = Routing { n_experts: 8, n_used: 2, gating: Gating::Softmax, renormalize: true, scale: 1.0 };
    for experts in [false, true] {
        let mut rng = Rng(70);
        let graph = graph_with(&shapes()[0], |spec| {
            if experts {
                let activation = Activation::Silu;
                spec.layers[1].ffn = FfnSpec::Moe(MoeSpec { routing, n_ff: 64, activation, shared: None });
            }
        });
        let model = Model::random(&mut rng, graph, DType::Q8_0, 80, 67);
        let mut backends = [0; 2].map(|_| backend(&model, &device, Precision::F32, Tuning::default()));
        backends.iter_mut().for_each(|backend| model.upload(&mut rng, backend));
        let [plain, profiled] = &mut backends;
        let names: Vec<String> = plain.kernels().iter().map(|variant| variant.label()).collect();
        let mut pos = 0;
        for (n_tokens, outputs) in
            [(6, Outputs::Last), (1, Outputs::None), (3, Outputs::None), (1, Outputs::Last)]
        {
            let tokens = model.random_tokens(&mut rng, n_tokens);
            let before = plain.counters().dispatches;
            block_on(plain.forward(&tokens, pos, outputs)).expect("a step");
            let launches = block_on(profiled.profile_step(&tokens, pos, outputs)).expect("a profiled step");
            assert_eq!(launches.len() as u64, plain.counters().dispatches - before);
            for (name, seconds, _) in &launches {
                assert!(names.contains(name) && *seconds > 0.0, "{name} took {seconds} s");
            }
            let read = |op: &Op| {
                let bytes = |weight: WeightId| model.bytes[weight.0].len();
                let rows = |weight: WeightId| model.plan.graph.weights[weight.0].n_rows;
                let wanted = |out| outputs == Outputs::Last || Some(out) != model.plan.graph.logits;
                match *op {
                    Op::MatMul { weight, out, .. } if wanted(out) => bytes(weight),
                    Op::Embed { table, .. } => bytes(table) * n_tokens / rows(table),
                    Op::ExpertMatMul { weight, .. } => bytes(weight) * (2 * n_tokens).min(8) / 8,
                    _ => 0,
                }
            };
            let read: Vec<usize> = model.plan.graph.ops.iter().map(read).collect();
            let least = read.iter().sum::<usize>() as u64;
            // Weights of one buffer begin at multiples of 256 bytes and of a group of blocks, with a reserve behind them.
            let aligned = |bytes: &usize| (bytes + 8).next_multiple_of(256 * 8 * 34 / 16);
            let most = read.iter().map(aligned).sum::<usize>() as u64;
            let told = launches.iter().map(|(.., bytes)| bytes).sum::<u64>();
            assert!((least..=most).contains(&told), "{told} bytes told, {least} to {most} expected");
            pos += n_tokens;
        }
        let [a, b] =
            backends.map(|mut backend| block_on(backend.forward(&[1], pos, Outputs::Last)).expect("a step"));
        assert_eq!(a, b, "with experts: {experts}");
    }
}
