//! What a request cost.
//!
//! Principal type: [`Metrics`]. Must not know how the work is done.

use serde::Serialize;
use web_time::Instant;

use crate::backend::Counters;

/// Speeds and work of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// From the request to its first token, in milliseconds.
    pub ttft_ms: f64,
    /// Prompt tokens computed per second (those still in the KV cache do not count); 0 when there were none.
    pub prefill_tok_s: f64,
    /// Tokens per second after the first; 0 when there was at most one.
    pub decode_tok_s: f64,
    /// Backend work of the whole request.
    #[serde(skip)]
    pub counters: Counters,
}

/// Since then.
pub fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// `n` things in `ms` milliseconds, per second; 0 when nothing was measured.
pub fn per_second(n: usize, ms: f64) -> f64 {
    if n == 0 || ms <= 0.0 {
        return 0.0;
    }
    n as f64 * 1000.0 / ms
}

/// What was done between two readings of the counters.
pub fn difference(after: Counters, before: Counters) -> Counters {
    Counters {
        steps: after.steps - before.steps,
        dispatches: after.dispatches - before.dispatches,
        passes: after.passes - before.passes,
        queue_writes: after.queue_writes - before.queue_writes,
        bind_groups: after.bind_groups - before.bind_groups,
        buffers: after.buffers - before.buffers,
        submits: after.submits - before.submits,
        encode_us: after.encode_us - before.encode_us,
        readback_bytes: after.readback_bytes - before.readback_bytes,
    }
}
