//! The GPU's KV cache as it grows: what comes of a text is what comes of it where the cache has its full size from the
//! beginning, to the last bit; and what it takes, and when, is known.

use lamplight::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision, Tuning};
use lamplight::backend::{Backend, Counters, Draw, Outputs};
use lamplight::error::ErrorCode;
use lamplight::tensor::DType;
use pollster::block_on;

use crate::gpu::{backend, device};
use crate::kv_cache::{cases, model};
use crate::support::{Model, Rng};

const N_CTX: usize = 1046;
const PAGE: usize = 48;

/// Positions that steps may begin at before anything is waited for.
const AHEAD: usize = 32;

/// A backend with pages of `page` positions, and another that makes its whole cache at once.
fn two(rng: &mut Rng, device: &GpuDevice, model: &Model, precision: Precision) -> [GpuBackend; 2] {
    [PAGE, N_CTX].map(|page| {
        let mut gpu = backend(model, device, precision, Tuning { page, run_keys: 64, ..Tuning::default() });
        model.upload(rng, &mut gpu);
        gpu
    })
}

fn objects(counters: Counters) -> (u64, u64) {
    (counters.buffers, counters.bind_groups)
}

/// Chunks of a prompt and single tokens over the ends of pages, a choice of tokens over several more, then back to the
/// beginning: in every format, with caches that keep all and caches that keep what a window shows.
#[test]
fn a_cache_that_grows_gives_what_a_whole_one_gives() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let half = if device.info().shader_f16 { Precision::F16 } else { Precision::F32 };
    for (index, kv_cache, precision, window) in [
        (0, DType::F32, Precision::F32, None),
        (3, DType::F16, half, None),
        (0, DType::Q8_0, Precision::F32, Some(37)),
        (2, DType::Q4_0, Precision::F32, None),
    ] {
        let mut rng = Rng(600 + index as u64);
        let mut case = cases()[index];
        case.window = window;
        let mut model = model(&mut rng, case, kv_cache);
        model.plan.n_ctx = N_CTX;
        println!("{case:?}, {kv_cache:?}");
        let [mut paged, mut whole] = two(&mut rng, &device, &model, precision);
        let foretold = GpuBackend::footprint(&model.plan, &device, precision).expect("a footprint").kv_bytes;
        let others = whole.memory_bytes() - foretold;
        let n_kept = model.plan.graph.kv.iter().map(|kv| model.plan.n_kept(kv)).max().expect("a layer");
        let (mut pos, mut room) = (0, PAGE);
        for n_tokens in [130, 1, 14, 3, 47, 1, 1, 90, 130, 130] {
            let before = (paged.memory_bytes(), objects(paged.counters()));
            let tokens = model.random_tokens(&mut rng, n_tokens);
            let [ours, theirs] = [&mut paged, &mut whole]
                .map(|backend| block_on(backend.forward(&tokens, pos, Outputs::All)).expect("a step"));
            assert!(ours == theirs, "{n_tokens} tokens at {pos}");
            pos += n_tokens;
            if pos + AHEAD > room {
                room = (pos + AHEAD).max(room * 5 / 4).next_multiple_of(PAGE);
            } else {
                assert_eq!((paged.memory_bytes(), objects(paged.counters())), before, "{n_tokens} to {pos}");
            }
            // Whole words of a cache: a few bytes more for keys and values of each layer.
            let expected = foretold * room.min(n_kept) as u64 / n_kept as u64;
            let taken = paged.memory_bytes() - others;
            assert!(taken.abs_diff(expected) <= 128, "{taken} bytes at {pos}, not {expected}");
            assert_eq!(device.held_bytes(), paged.memory_bytes() + whole.memory_bytes());
        }
        let [ours, theirs] = [&mut paged, &mut whole].map(|backend| chosen(backend, pos, 200));
        assert_eq!(ours, theirs);
        let last = block_on(paged.forward(&[1], pos + 200, Outputs::Last)).expect("a step");
        assert!(last == block_on(whole.forward(&[1], pos + 200, Outputs::Last)).expect("a step"));
        // All there is room for.
        block_on(paged.forward(&[1], N_CTX - 1, Outputs::Last)).expect("the last position");
        assert_eq!(paged.memory_bytes(), whole.memory_bytes());
        let before = objects(paged.counters());
        let tokens = model.random_tokens(&mut rng, 40);
        let [ours, theirs] = [&mut paged, &mut whole]
            .map(|backend| block_on(backend.forward(&tokens, 0, Outputs::All)).expect("from the beginning"));
        assert!(ours == theirs);
        assert_eq!(objects(paged.counters()), before, "pages stay");
        drop((paged, whole));
        assert_eq!(device.held_bytes(), 0);
    }
}

/// `n` tokens chosen behind `pos`, the next begun before the last are waited for.
fn chosen(backend: &mut GpuBackend, pos: usize, n: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    backend.choose(Some((1, pos, &Draw::BEST)), 8).expect("begin");
    for _ in 1..n / 8 {
        backend.choose(None, 8).expect("go on");
        let before = (backend.memory_bytes(), objects(backend.counters()));
        ids.extend(block_on(backend.chosen()).expect("tokens"));
        let after = (backend.memory_bytes(), objects(backend.counters()));
        assert!(
            before == after || (before.0 < after.0 && before.1 < after.1),
            "objects only where a page is made"
        );
    }
    ids.extend(block_on(backend.chosen()).expect("tokens"));
    assert_eq!(ids.len(), n);
    ids
}

/// Where another graph takes over, what the cache has grown to stays, and it grows on.
#[test]
fn another_graph_goes_on_with_what_was_made() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(640);
    let mut model = model(&mut rng, cases()[0], DType::F32);
    model.plan.n_ctx = N_CTX;
    let [mut paged, mut whole] = two(&mut rng, &device, &model, Precision::F32);
    let tokens = model.random_tokens(&mut rng, 130);
    block_on(paged.forward(&tokens, 0, Outputs::None)).expect("a step");
    let bytes = paged.memory_bytes();
    for backend in [&mut paged, &mut whole] {
        let (graph, dtypes) = (model.plan.graph.clone(), model.plan.dtypes.clone());
        let n_kept = dtypes.len();
        block_on(backend.replace_graph(graph, dtypes, n_kept)).expect("the same again");
        block_on(backend.finish_upload()).expect("all is there");
    }
    assert_eq!(paged.memory_bytes(), bytes);
    assert_eq!(device.held_bytes(), paged.memory_bytes() + whole.memory_bytes());
    for pos in [0, 130, 260] {
        let [ours, theirs] = [&mut paged, &mut whole]
            .map(|backend| block_on(backend.forward(&tokens, pos, Outputs::Last)).expect("a step"));
        assert!(ours == theirs, "at {pos}");
    }
    assert!(paged.memory_bytes() > bytes);
    drop((paged, whole));
    assert_eq!(device.held_bytes(), 0);
}

/// A device that is lost tells so where a page would be made, as everywhere; and no steps begin where there is no room.
#[test]
fn what_cannot_grow_says_so() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(650);
    let mut model = model(&mut rng, cases()[1], DType::F32);
    model.plan.n_ctx = N_CTX;
    let [mut paged, _] = two(&mut rng, &device, &model, Precision::F32);
    let far = paged.choose(Some((1, 600, &Draw::BEST)), 4).expect_err("nothing was there yet");
    assert_eq!(far.code(), ErrorCode::Internal);
    block_on(paged.forward(&[1], 0, Outputs::Last)).expect("a step");
    paged.choose(Some((1, 1, &Draw::BEST)), 4).expect("begin");
    device.destroy();
    assert_eq!(block_on(paged.chosen()).expect_err("lost").code(), ErrorCode::GpuLost);
    let lost = block_on(paged.forward(&[1], 600, Outputs::Last)).expect_err("lost");
    assert_eq!(lost.code(), ErrorCode::GpuLost);
}
