//! How far ahead of the text steps are run.
//!
//! Principal type: [`Pace`]. Must not know tokens.

use web_time::Instant;

use super::metrics::milliseconds;

/// How many tokens to have chosen at once: one at first, so that text comes soon, then as many as take
/// [`AHEAD_MS`], so that waiting for the GPU is paid once for all of them and stopping stays quick.
pub(super) struct Pace {
    pub(super) steps: usize,
    /// When the last ones came, or the first were begun.
    pub(super) since: Instant,
    /// Tokens to choose here because the backend could not tell one, and how often it could not of late.
    pub(super) rest: usize,
    misses: u32,
}

/// Time that steps run at once should take.
const AHEAD_MS: f64 = 40.0;

impl Default for Pace {
    fn default() -> Self {
        Self { steps: 1, since: Instant::now(), rest: 0, misses: 0 }
    }
}

impl Pace {
    /// `n` tokens came, `all` that were to.
    pub(super) fn adapt(&mut self, n: usize, all: bool) {
        let ms = milliseconds(self.since);
        self.since = Instant::now();
        if all {
            self.misses = self.misses.saturating_sub(1);
            let fitting = n as f64 * AHEAD_MS / ms.max(1e-3);
            self.steps = (fitting as usize).clamp(1, 2 * self.steps);
        } else {
            // A flat distribution, of which there will be more: what is run ahead of it is run in vain.
            self.rest = 1 << self.misses.min(5);
            self.misses += 2;
            self.steps = 1;
        }
    }
}
