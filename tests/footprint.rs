//! What a model is said to take before its weights are there is what it takes then, for every family.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use lamplight::backend::Backend;
use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::engine::{LoadOptions, Loading, fill, native};
use pollster::block_on;

#[path = "common/golden.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod golden;

/// Rope tables are made last, and hold a few positions.
const ROPE_TABLES: u64 = 64 << 10;

#[test]
fn the_cpu_takes_what_was_foretold() {
    for path in golden::sets().iter().map(golden::Set::model) {
        let options = LoadOptions { n_ctx: Some(64), n_batch: Some(16), ..LoadOptions::default() };
        let (sources, model) = block_on(native::open(&path)).unwrap();
        let loading = Loading::new(model, options).unwrap();
        let mut backend = CpuBackend::new(loading.plan(), CpuMode::Fast).unwrap();
        let foretold = backend.footprint();
        block_on(fill(&mut backend, &loading, &sources)).unwrap();
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
