//! What a model is said to take before its weights are there is what it takes then, for every family.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::{Backend, Outputs};
use lamplight::engine::{LoadOptions, Loading, fill, native};
use lamplight::model::shard::Split;
use pollster::block_on;

#[path = "common/golden.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod golden;

/// Rope tables are made last, and hold a few positions.
const ROPE_TABLES: u64 = 64 << 10;

#[test]
fn the_cpu_takes_what_was_foretold() {
    for path in golden::sets().iter().map(golden::Set::model) {
        let options = LoadOptions {
            n_ctx: Some(64),
            n_batch: Some(16),
            n_sequences: Some(3),
            ..LoadOptions::default()
        };
        let (sources, model) = block_on(native::open(&path)).unwrap();
        let loading = Loading::new(model, options).unwrap();
        let mut backend = CpuBackend::new(loading.plan(), CpuMode::Fast).unwrap();
        let foretold = CpuBackend::footprint(&loading.plan(), None).unwrap();
        block_on(fill(&mut backend, &loading, &sources)).unwrap();
        for sequence in 0..loading.plan().n_sequences {
            backend.select(sequence);
            block_on(backend.forward(&[1], 0, Outputs::None)).unwrap();
        }
        let taken = backend.memory_bytes();
        assert!(foretold.weight_bytes > 0, "{}", path.display());
        let beyond = taken.checked_sub(foretold.total());
        assert!(
            beyond.is_some_and(|beyond| beyond <= ROPE_TABLES),
            "{}: {taken} for {foretold:?}",
            path.display()
        );
    }
}

/// A look at a model allocates no cache, however long the context.
#[test]
fn a_context_beyond_any_memory_can_be_asked_about() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama32");
    let options = LoadOptions { n_ctx: Some(1 << 20), ..LoadOptions::default() };
    let (_, model) = block_on(native::open(&path)).unwrap();
    let mut plan = Loading::new(model, options).unwrap().plan();
    plan.n_ctx = 1 << 40;
    let foretold = CpuBackend::footprint(&plan, None).unwrap();
    assert!(foretold.kv_bytes >= 1 << 40, "{foretold:?}");
}

/// Each shard has its rows and its heads, and what cannot be cut.
#[test]
fn a_shard_takes_less_than_the_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama32");
    let (_, model) = block_on(native::open(&path)).unwrap();
    let plan = Loading::new(model, LoadOptions::default()).unwrap().plan();
    let whole = CpuBackend::footprint(&plan, None).unwrap();
    let shards =
        [0, 1].map(|index| CpuBackend::footprint(&plan, Some(Split { index, count: 2, least: 0 })).unwrap());
    for shard in shards {
        assert!(shard.weight_bytes < whole.weight_bytes && shard.kv_bytes < whole.kv_bytes, "{shard:?}");
    }
    let sum = shards.iter().map(|shard| shard.weight_bytes).sum::<u64>();
    assert!(sum >= whole.weight_bytes, "{sum} of {whole:?}");
}
