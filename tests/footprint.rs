//! What a model is said to take before its weights are there is what it takes then, for every family.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};

use lamplight::backend::Backend;
use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::engine::{LoadOptions, Loading, fill, native};
use pollster::block_on;

/// Rope tables are made last, and hold a few positions.
const ROPE_TABLES: u64 = 64 << 10;

#[test]
fn the_cpu_takes_what_was_foretold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf");
    let models: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(models.len() > 40, "{} models", models.len());
    for path in models {
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
