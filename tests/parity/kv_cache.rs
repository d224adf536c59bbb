//! Every format of the KV cache: the fast CPU kernels and the GPU against the exact ones, which keep what the format
//! decodes to; and what a format takes and loses.

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::{Backend, KV_FORMATS, ModelPlan, Outputs, REWIND, Trace};
use lamplight::model::spec::{MixerSpec, NormKind, NormSpec, QkNorm, QkNormOver, RopeLayout};
use lamplight::tensor::DType;
use pollster::block_on;

use crate::support::{Model, Rng, Shape, graph_with, shapes};

/// What attention can be asked for, at odd lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) head_dim: usize,
    n_heads: usize,
    n_kv_heads: usize,
    pub(crate) window: Option<usize>,
    softcap: Option<f32>,
    sinks: bool,
    qk_norm: bool,
}

/// Heads of all widths, whole blocks and not, alone and in groups.
pub(crate) fn cases() -> Vec<Case> {
    let plain = Case {
        head_dim: 64,
        n_heads: 9,
        n_kv_heads: 3,
        window: None,
        softcap: None,
        sinks: false,
        qk_norm: false,
    };
    vec![
        plain,
        Case { head_dim: 32, n_heads: 2, n_kv_heads: 2, ..plain },
        Case { head_dim: 50, n_heads: 4, n_kv_heads: 2, window: Some(37), ..plain },
        Case { head_dim: 80, n_heads: 4, n_kv_heads: 4, sinks: true, qk_norm: true, ..plain },
        Case { head_dim: 96, n_heads: 5, n_kv_heads: 1, softcap: Some(2.0), qk_norm: true, ..plain },
        Case { head_dim: 112, n_heads: 2, n_kv_heads: 1, window: Some(1), ..plain },
        Case { head_dim: 128, n_heads: 8, n_kv_heads: 1, window: Some(70), sinks: true, ..plain },
        Case { head_dim: 256, n_heads: 2, n_kv_heads: 1, softcap: Some(4.0), ..plain },
        Case { head_dim: 512, n_heads: 1, n_kv_heads: 1, ..plain },
    ]
}

/// A model of two layers with float weights, so that keys and values hardly differ between backends.
pub(crate) fn model(rng: &mut Rng, case: Case, kv_cache: DType) -> Model {
    let Case { head_dim, n_heads, n_kv_heads, window, softcap, sinks, qk_norm } = case;
    let (rope, plain) = (Some((RopeLayout::Neox, head_dim)), shapes().swap_remove(0));
    let shape = Shape { head_dim, n_heads, n_kv_heads, window, softcap, rope, n_embd: 32, n_ff: 32, ..plain };
    let graph = graph_with(&shape, |spec| {
        for layer in &mut spec.layers {
            if let MixerSpec::Attention(attention) = &mut layer.mixer {
                attention.sinks = sinks;
                let norm = NormSpec { kind: NormKind::Rms, eps: 1e-6 };
                attention.qk_norm = qk_norm.then_some(QkNorm { norm, over: QkNormOver::Head });
            }
        }
    });
    let mut model = Model::random(rng, graph, DType::F32, 311, 130);
    model.plan.kv_cache = Some(kv_cache);
    model
}

/// Steps of decoding and of prefill, over more keys than a block of the online softmax and than a run of the GPU's.
pub(crate) const STEPS: [usize; 6] = [1, 129, 130, 4, 33, 2];

/// Root mean square of the difference, as a share of that of `b`, over all values of all ops.
pub(crate) fn difference(a: &Trace, b: &Trace) -> f64 {
    let (mut gap, mut all) = (0.0, 0.0);
    for ((name, a), (other, b)) in a.values.iter().zip(&b.values) {
        assert_eq!((name, a.len()), (other, b.len()));
        for (a, b) in a.iter().zip(b) {
            gap += f64::from(a - b).powi(2);
            all += f64::from(*b).powi(2);
        }
    }
    (gap / all).sqrt()
}

/// How far a backend may be from the exact one with the same format of the cache, and about how far the format itself is
/// from single floats: of one key or value, 2^-12 (f16), 2^-9 (q8_0) and 2^-5 (q4_0) of the largest of its block.
pub(crate) fn tolerance(kv_cache: DType) -> (f64, std::ops::Range<f64>) {
    match kv_cache {
        DType::F32 => (1e-5, 0.0..1e-9),
        DType::F16 => (1e-4, 1e-6..1e-3),
        // A key that lies between two codes may get the other one where it differs in its last bit.
        DType::Q8_0 => (5e-4, 1e-4..2e-2),
        _ => (2e-3, 2e-3..3e-1),
    }
}

#[test]
fn fast_kernels_agree_with_exact_ones() {
    for (seed, case) in cases().into_iter().enumerate() {
        for kv_cache in KV_FORMATS {
            let mut rng = Rng(700 + seed as u64);
            let model = model(&mut rng, case, kv_cache);
            let mut plain = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("exact");
            let mut fast = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
            let floats = ModelPlan { kv_cache: None, ..model.plan.clone() };
            let mut floats = CpuBackend::new(floats, CpuMode::Exact).expect("floats");
            for backend in [&mut plain, &mut fast, &mut floats] {
                model.upload(&mut rng, backend);
            }
            let (allowed, lost) = tolerance(kv_cache);
            let mut pos = 0;
            for n_tokens in STEPS {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let [ours, theirs, floats] = [&mut fast, &mut plain, &mut floats]
                    .map(|backend| backend.forward_traced(&tokens, pos).expect("forward"));
                let own = difference(&ours, &theirs);
                assert!(own <= allowed, "{kv_cache:?}, {case:?}: {own} with {n_tokens} tokens at {pos}");
                let gap = difference(&theirs, &floats);
                println!("{kv_cache:?}, {case:?}, {n_tokens} tokens at {pos}: {own} and {gap}");
                assert!(
                    lost.contains(&gap),
                    "{kv_cache:?}, {case:?}: the format loses {gap} with {n_tokens} tokens at {pos}"
                );
                pos += n_tokens;
            }
        }
    }
}

/// On the GPU, with and without half floats in its kernels, in fused launches and by themselves. What the GPU keeps where
/// nothing is asked for is tested with everything else.
#[cfg(feature = "gpu")]
#[test]
fn gpu_kernels_agree_with_exact_ones() {
    use crate::gpu::{backend, device};
    use lamplight::backend::gpu::{GpuOptions, Precision, Tuning};
    let Some(device) = device(GpuOptions::default()) else { return };
    for (seed, case) in cases().into_iter().enumerate() {
        // Each model's kernels are compiled anew, which takes long: one format for each case, all with LAMPLIGHT_LONG.
        let all = std::env::var_os("LAMPLIGHT_LONG").is_some();
        let formats = KV_FORMATS[1..].iter().enumerate().filter(|(index, _)| all || index % 3 == seed % 3);
        let mut ways: Vec<_> = formats.map(|(_, kv_cache)| (*kv_cache, Precision::F32)).collect();
        if device.info().shader_f16 && seed < 2 {
            ways.extend([(DType::Q8_0, Precision::F16), (DType::F32, Precision::F16)]);
        }
        for (kv_cache, precision) in ways {
            let mut rng = Rng(800 + seed as u64);
            let model = model(&mut rng, case, kv_cache);
            let tuning = Tuning { run_keys: 1, few_rows: Some(4), fuse: seed % 2 == 1, ..Tuning::default() };
            let mut gpu = backend(&model, &device, precision, tuning);
            let mut exact = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("exact");
            model.upload(&mut rng, &mut gpu);
            model.upload(&mut rng, &mut exact);
            // Half floats in the products' tiles move keys from code to code.
            let (own, lost) = tolerance(kv_cache);
            let allowed = if precision == Precision::F16 { lost.end.max(5e-3) } else { own };
            let mut pos = 0;
            for n_tokens in [1, 65, 3, 1] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let ours = block_on(gpu.forward_traced(&tokens, pos)).expect("forward");
                let mut theirs = exact.forward_traced(&tokens, pos).expect("forward");
                // A fused launch leaves no trace of what is within it.
                theirs.values.retain(|(name, _)| ours.values.iter().any(|(other, _)| name == other));
                let gap = difference(&ours, &theirs);
                println!("{kv_cache:?} {precision:?}, {case:?}: {gap} at {pos}");
                assert!(gap <= allowed, "{kv_cache:?} {precision:?}, {case:?}: {gap}, {n_tokens} at {pos}");
                pos += n_tokens;
            }
            let foretold = lamplight::backend::gpu::GpuBackend::footprint(&model.plan, &device, precision);
            let kv_bytes = foretold.expect("a footprint").kv_bytes;
            let (blocks, fours) = (case.head_dim.div_ceil(32), case.head_dim.next_multiple_of(4));
            let head = match kv_cache {
                DType::F32 => 4 * fours,
                DType::F16 if precision == Precision::F16 => 2 * fours,
                DType::F16 => 64 * blocks,
                DType::Q8_0 => 36 * blocks,
                _ => 20 * blocks,
            };
            let caches = (311 * case.n_kv_heads * head).next_multiple_of(16);
            assert_eq!(kv_bytes, (2 * 2 * caches) as u64, "{kv_cache:?}, {case:?}");
        }
    }
}

/// A long context costs a short text nothing, and texts go on over the ends of pages, also with a window that begins within
/// one; behind a window's pages the first comes again.
#[test]
fn pages_are_made_as_positions_are_used() {
    for (seed, window, n_pages) in [(0, None, 3), (1, Some(37), 1), (2, Some(600), 2)] {
        for kv_cache in [DType::F16, DType::Q8_0] {
            let mut rng = Rng(780 + seed);
            let case = Case { window, n_heads: 3, n_kv_heads: 1, ..cases()[0] };
            let mut model = model(&mut rng, case, kv_cache);
            model.plan.n_ctx = 1046;
            let mut plain = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("exact");
            let mut fast = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
            model.upload(&mut rng, &mut plain);
            model.upload(&mut rng, &mut fast);
            let (mut pos, mut held) = (0, Vec::new());
            for n_tokens in [130, 130, 130, 121, 1, 1, 130, 130, 130, 120, 1, 1, 5, 16] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let [ours, theirs] = [&mut fast, &mut plain]
                    .map(|backend| backend.forward_traced(&tokens, pos).expect("forward"));
                let own = difference(&ours, &theirs);
                assert!(own <= tolerance(kv_cache).0, "{kv_cache:?}, {window:?}: {own} at {pos}");
                pos += n_tokens;
                // The first step makes room for its logits.
                if held.last() != Some(&fast.memory_bytes()) {
                    held.push(fast.memory_bytes());
                    assert!([130, 513, 1025].contains(&pos), "grown at {pos}");
                }
            }
            assert_eq!((pos, held.len()), (1046, n_pages));
            let kv_bytes = CpuBackend::footprint(&model.plan, None).expect("a footprint").kv_bytes;
            if n_pages > 1 {
                let pages = held.windows(2).map(|held| held[1] - held[0]).sum::<u64>() + held[1] - held[0];
                assert_eq!(pages, kv_bytes, "pages of 512 each, and perhaps the rest");
            }
            // Refused, and nothing is lost by it.
            assert!(block_on(fast.forward(&[1], pos, Outputs::Last)).is_err());
            assert_eq!(fast.earliest(), window.map_or(0, |_| pos - 130 - REWIND));
            block_on(fast.forward(&[1], pos - 300, Outputs::Last)).expect("going back");
            assert_eq!(fast.memory_bytes(), *held.last().expect("a page"), "pages stay");
        }
    }
}

/// A chunk of a prompt and single tokens see the same keys, whatever block of the softmax they are in.
#[test]
fn chunks_give_what_single_tokens_give() {
    for (seed, case) in cases().into_iter().enumerate().step_by(2) {
        for kv_cache in KV_FORMATS {
            let mut rng = Rng(750 + seed as u64);
            let model = model(&mut rng, case, kv_cache);
            let mut backend = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
            model.upload(&mut rng, &mut backend);
            let tokens = model.random_tokens(&mut rng, 270);
            let mut single = Vec::new();
            for (pos, token) in tokens.iter().enumerate() {
                single.extend(block_on(backend.forward(&[*token], pos, Outputs::Last)).expect("token"));
            }
            let mut chunks = Vec::new();
            for (index, tokens) in tokens.chunks(97).enumerate() {
                chunks.extend(block_on(backend.forward(tokens, index * 97, Outputs::All)).expect("chunk"));
            }
            let rms = (single.iter().map(|v| v * v).sum::<f32>() / single.len() as f32).sqrt();
            let gaps = single.iter().zip(&chunks).map(|(a, b)| (a - b).abs() / rms);
            let worst = gaps.fold(0.0, f32::max);
            // The same sums, but for codes that a last bit decides.
            let allowed = if matches!(kv_cache, DType::F32 | DType::F16) { 1e-4 } else { 2e-2 };
            assert!(worst <= allowed, "{kv_cache:?}, {case:?}: {worst}");
        }
    }
}

#[test]
fn a_smaller_format_takes_less() {
    let mut rng = Rng(1);
    let mut taken = Vec::new();
    for kv_cache in KV_FORMATS {
        let model = model(&mut rng, cases()[0], kv_cache);
        let foretold = CpuBackend::footprint(&model.plan, None).expect("footprint");
        let backend = CpuBackend::new(model.plan.clone(), CpuMode::Fast).expect("fast");
        assert!(backend.memory_bytes() >= foretold.kv_bytes, "{foretold:?}");
        taken.push(foretold.kv_bytes);
    }
    // Positions are filled up to whole tiles or blocks: 320 for 311, and 312 of floats.
    assert_eq!(taken, [512 * 312, 256 * 312, 144 * 320, 80 * 320].map(|bytes| bytes * 2 * 2 * 3 * 64 / 128));
}

#[test]
fn a_format_that_is_none_is_refused() {
    let model = model(&mut Rng(1), cases()[0], DType::Q4_K);
    for mode in [CpuMode::Fast, CpuMode::Exact] {
        assert!(CpuBackend::new(model.plan.clone(), mode).is_err());
    }
    let error = lamplight::backend::kv_format("q5_0").expect_err("no format of a cache");
    assert_eq!(error.code(), lamplight::error::ErrorCode::InvalidRequest);
    assert!(error.message().contains("q8_0"), "{error}");
}
