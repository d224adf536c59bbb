//! From a prompt's tokens to new tokens and text: KV cache, prefill, sampling, decoding, stopping.
//!
//! Principal types: [`Session`] (a backend and what its KV cache holds) and [`generate`] over it. Knows backends by
//! their trait only, and text through [`TextDecoder`]; must not know model files, tokenizers or the web.

mod chunk;
pub mod fields;
mod generator;
mod logprobs;
pub mod metrics;
mod pace;
mod params;
pub mod rng;
mod sampler;
mod session;
mod stop;
#[cfg(not(target_arch = "wasm32"))]
#[cfg(test)]
mod test_backend;
mod texts;

pub use generator::{Event, FinishReason, Generated, TextDecoder, generate};
pub use logprobs::TokenLogprob;
pub use metrics::Metrics;
pub use params::{REPETITION_WINDOW, SamplingParams};
pub use sampler::{Sampler, argmax};
pub use session::{Prefilled, Session, SessionShape};
pub use stop::{Matched, StopMatcher};

/// Asked between any two backend steps: gives others a turn and tells whether to go on.
#[allow(async_fn_in_trait, reason = "single-threaded by design: no Send bounds wanted")]
pub trait Pause {
    /// Lets the surroundings run (a worker's event loop, so that an abort message gets in). False means stop.
    async fn pause(&self) -> bool;

    /// How long one step may take, in milliseconds, so that [`Pause::pause`] comes often enough; prefill chunks are
    /// cut to it. `None`: as long as it takes.
    fn step_budget_ms(&self) -> Option<f64> {
        Some(100.0)
    }
}

/// Never stops: native programs without a user to interrupt them.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPause;

impl Pause for NoPause {
    async fn pause(&self) -> bool {
        true
    }

    fn step_budget_ms(&self) -> Option<f64> {
        None
    }
}
