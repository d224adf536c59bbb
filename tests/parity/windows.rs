//! Caches of layers with windows: what they keep, how far a text can be taken back, and that nothing is read which they
//! have forgotten. The exact kernels, which forget nothing, are the reference.

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::{Backend, Outputs, REWIND};
use lamplight::error::ErrorCode;
use lamplight::tensor::DType;
use pollster::block_on;

use crate::kv_cache::{Case, cases, difference, model, tolerance};
use crate::support::{Model, Rng};

/// More than twice what the windows below need, and no multiple of it.
const N_CTX: usize = 1046;
/// Of the model's steps.
const N_BATCH: usize = 130;
/// Over the places where caches begin anew, in chunks, a few tokens and single ones.
const STEPS: [usize; 16] = [130, 130, 100, 60, 1, 1, 1, 4, 84, 1, 130, 130, 130, 100, 3, 1];

fn windowed(rng: &mut Rng, index: usize, kv_cache: DType) -> (Case, Model) {
    let case = cases().into_iter().filter(|case| case.window.is_some()).nth(index).expect("a window");
    let mut model = model(rng, case, kv_cache);
    assert!(model.plan.graph.kv.iter().all(|kv| kv.window == case.window && model.plan.n_batch == N_BATCH));
    model.plan.n_ctx = N_CTX;
    (case, model)
}

/// Runs `backend` beside the exact kernels over its whole context.
fn agree(
    rng: &mut Rng,
    model: &Model,
    allowed: f64,
    mut traced: impl FnMut(&[u32], usize) -> lamplight::backend::Trace,
) {
    let mut exact = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("exact");
    model.upload(rng, &mut exact);
    let mut pos = 0;
    for n_tokens in STEPS {
        let tokens = model.random_tokens(rng, n_tokens);
        let ours = traced(&tokens, pos);
        let mut theirs = exact.forward_traced(&tokens, pos).expect("forward");
        theirs.values.retain(|(name, _)| ours.values.iter().any(|(other, _)| name == other));
        let gap = difference(&ours, &theirs);
        assert!(gap <= allowed, "{gap} with {n_tokens} tokens at {pos}");
        pos += n_tokens;
    }
    assert!(pos > 2 * (70 + N_BATCH + REWIND), "twice around");
}

/// Goes back as far as is allowed, and no further.
fn goes_back(rng: &mut Rng, model: &Model, allowed: f32, backend: &mut impl Backend) {
    let mut exact = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("exact");
    model.upload(rng, &mut exact);
    let mut pos = 0;
    let mut run =
        |backend: &mut dyn FnMut(&[u32], usize) -> Vec<f32>, rng: &mut Rng, pos: usize, n: usize| {
            let tokens = model.random_tokens(rng, n);
            let ours = backend(&tokens, pos);
            let theirs = block_on(exact.forward(&tokens, pos, Outputs::Last)).expect("forward");
            let scale = (theirs.iter().map(|x| x * x).sum::<f32>() / theirs.len() as f32).sqrt();
            let gap = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap <= allowed * scale, "{gap} of {scale} with {n} tokens at {pos}");
        };
    let mut forward =
        |tokens: &[u32], pos: usize| block_on(backend.forward(tokens, pos, Outputs::Last)).expect("forward");
    while pos < 900 {
        run(&mut forward, rng, pos, N_BATCH);
        pos += N_BATCH;
    }
    let earliest = pos - N_BATCH - REWIND;
    run(&mut forward, rng, earliest, N_BATCH);
    // What was written further on still counts.
    run(&mut forward, rng, earliest, 1);
    assert_eq!(backend.earliest(), earliest);
    let refused = block_on(backend.forward(&[1], earliest - 1, Outputs::Last)).expect_err("forgotten");
    assert_eq!(refused.code(), ErrorCode::Internal);
    let mut forward =
        |tokens: &[u32], pos: usize| block_on(backend.forward(tokens, pos, Outputs::Last)).expect("forward");
    run(&mut forward, rng, earliest + 1, 1);
    run(&mut forward, rng, 0, 5);
    run(&mut forward, rng, 5, 1);
    assert_eq!(backend.earliest(), 0);
}

#[test]
fn the_cpu_forgets_nothing_that_is_seen() {
    for index in 0..3 {
        for kv_cache in [DType::F16, DType::Q8_0] {
            let mut rng = Rng(900 + index as u64);
            let (case, model) = windowed(&mut rng, index, kv_cache);
            println!("{case:?}, {kv_cache:?}");
            let mut fast = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
            model.upload(&mut rng, &mut fast);
            agree(&mut rng, &model, tolerance(kv_cache).0, |tokens, pos| {
                fast.forward_traced(tokens, pos).expect("forward")
            });
            let mut fast = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
            model.upload(&mut rng, &mut fast);
            goes_back(&mut rng, &model, 0.02, &mut fast);
        }
    }
}

#[test]
fn a_window_takes_no_memory_for_what_it_does_not_show() {
    let mut rng = Rng(910);
    let (_, mut model) = windowed(&mut rng, 0, DType::F16);
    let bytes = |model: &Model| CpuBackend::footprint(&model.plan, None).expect("a footprint").kv_bytes;
    let windowed = bytes(&model);
    model.plan.n_ctx = 512;
    assert_eq!(windowed, bytes(&model), "one page");
    model.plan.n_ctx = 1 << 20;
    assert_eq!(windowed, bytes(&model), "whatever the context");
    for kv in &mut model.plan.graph.kv {
        kv.window = None;
    }
    assert_eq!(bytes(&model), 2048 * windowed);
}

#[cfg(feature = "gpu")]
#[test]
fn the_gpu_forgets_nothing_that_is_seen() {
    use crate::gpu::{backend, device};
    use lamplight::backend::gpu::{GpuBackend, GpuOptions, Precision, Tuning};
    let Some(device) = device(GpuOptions::default()) else { return };
    for (index, kv_cache) in [(0, DType::F32), (2, DType::F16), (0, DType::Q8_0)] {
        let mut rng = Rng(920 + index as u64);
        let (case, model) = windowed(&mut rng, index, kv_cache);
        println!("{case:?}, {kv_cache:?}");
        let tuning = Tuning { run_keys: 1, few_rows: Some(4), fuse: index == 0, ..Tuning::default() };
        let mut gpu = backend(&model, &device, Precision::F32, tuning);
        model.upload(&mut rng, &mut gpu);
        agree(&mut rng, &model, tolerance(kv_cache).0, |tokens, pos| {
            block_on(gpu.forward_traced(tokens, pos)).expect("forward")
        });
        let mut gpu = backend(&model, &device, Precision::F32, tuning);
        model.upload(&mut rng, &mut gpu);
        goes_back(&mut rng, &model, 0.02, &mut gpu);
        let kv_bytes = |n_ctx| {
            let plan = lamplight::backend::ModelPlan { n_ctx, ..model.plan.clone() };
            GpuBackend::footprint(&plan, &device, Precision::F32).expect("a footprint").kv_bytes
        };
        let n_kept = case.window.expect("a window") + N_BATCH + REWIND;
        assert_eq!(kv_bytes(N_CTX), kv_bytes(n_kept), "what is kept");
        assert_eq!(kv_bytes(1 << 16), kv_bytes(n_kept), "whatever the context");
    }
}
