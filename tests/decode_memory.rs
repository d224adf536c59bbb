//! Decoding on the CPU allocates nothing: the same step again and again, on every golden model. A test binary of its
//! own, with one test, because it watches the memory of the whole process.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use lamplight::backend::cpu::CpuMode;
use lamplight::backend::{Backend, Outputs};
use lamplight::engine::LoadOptions;
use lamplight::engine::native::{BackendOptions, load};
use peak_alloc::PeakAlloc;
use pollster::block_on;

#[path = "common/golden.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod golden;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

#[test]
fn a_decoded_token_allocates_nothing() {
    // The models whose tokens see only earlier ones.
    for path in golden::sets().iter().filter(|set| set.golden.causal).map(golden::Set::model) {
        let options = LoadOptions { n_ctx: Some(64), ..LoadOptions::default() };
        let mut engine = block_on(load(&path, BackendOptions::Cpu(CpuMode::Fast), options)).unwrap();
        let n_vocab = engine.summary().n_vocab as u32;
        let backend = engine.session_mut().backend_mut();
        // Waiting for a future allocates, too: once for all steps.
        let grown = block_on(async {
            let mut grown = [0; 8];
            for (pos, grown) in grown.iter_mut().enumerate() {
                ALLOCATOR.reset_peak_usage();
                let before = ALLOCATOR.current_usage();
                let token = (pos * 7919) as u32 % n_vocab;
                let logits = backend.forward(&[token], pos, Outputs::Last).await.unwrap();
                backend.reuse(logits);
                *grown = ALLOCATOR.peak_usage() - before;
            }
            grown
        });
        // The first step makes the logits that all later ones use.
        assert!(grown[0] > 0, "{}: nothing was seen", path.display());
        assert_eq!(grown[1..], [0; 7], "{}: bytes allocated in steps", path.display());
    }
}
