//! The launches that choose the next token from the logits.
//!
//! Principal type: [`Choosers`]. Must not know how requests describe a draw.

use super::{MAX_CHOSEN, Planner, flat};
use crate::backend::gpu::kernels::{ARG_MAX_RUN, Kernel, N_BUCKETS, Variant};
use crate::backend::{Draw, MOST_BEGUN};
use crate::error::Result;
use crate::model::graph::Rows;

/// Launches behind a step of one output, and what they leave.
#[derive(Clone, Debug, Default)]
pub(in crate::backend::gpu) struct Choosers {
    /// Indices into [`super::Plan::launches`], in the order of [`KERNELS`].
    launches: Vec<usize>,
    /// Bits of the largest logit and the id of the token, of each step of a submit.
    pub(in crate::backend::gpu) chosen: usize,
    /// Most tokens with a penalty for being seen.
    n_seen: usize,
    /// What log-probabilities are made from, [`TOP_WORDS`] a step.
    pub(in crate::backend::gpu) found: usize,
    /// How tokens are drawn: [`sampling_words`].
    pub(in crate::backend::gpu) sampling: usize,
    /// The tokens that may be drawn, a bit each, then those with a bias, and it.
    pub(in crate::backend::gpu) limits: usize,
}

const KERNELS: [Kernel; 8] = [
    Kernel::TopOfRun,
    Kernel::Penalise,
    Kernel::ArgMax,
    Kernel::Tally,
    Kernel::Collect,
    Kernel::Draw,
    Kernel::Choose,
    Kernel::Top,
];

/// Words of a list of the most probable tokens: two numbers, then of each the bits of its logit and its id.
pub(in crate::backend::gpu) const TOP_WORDS: usize = 2 + 2 * Draw::MAX_TOP;

/// Words of the buffer for draws before the tokens seen; shaders/sample/sampling.wgsl.
const SAMPLING_WORDS: usize = 20 + Draw::MAX_RECENT;

impl Choosers {
    /// Whether there is room for what `draw` needs.
    pub(in crate::backend::gpu) fn can(&self, draw: &Draw, n_vocab: usize) -> bool {
        let room = draw.seen.len() <= self.n_seen
            && draw.bias.len() <= Draw::MAX_BIASES
            && draw.top.is_none_or(|n| n <= Draw::MAX_TOP);
        room && (draw.top_k <= Draw::MAX_CANDIDATES || !draw.limits(n_vocab))
    }

    /// The launches that draw as `draw` says.
    pub(in crate::backend::gpu) fn for_draw(&self, draw: &Draw, n_vocab: usize) -> Vec<usize> {
        let (plain_best, ordered) = (draw.is_best(), draw.orders(n_vocab));
        let needed = |kernel| match kernel {
            Kernel::TopOfRun | Kernel::Top => draw.top.is_some(),
            Kernel::Penalise => draw.changes() || ordered,
            Kernel::ArgMax => !draw.changes() && !ordered,
            Kernel::Tally => draw.scale != 0.0 && !ordered,
            Kernel::Collect => ordered,
            Kernel::Draw => !plain_best,
            _ => plain_best,
        };
        let chosen = KERNELS.into_iter().zip(&self.launches).filter(|(kernel, _)| needed(*kernel));
        chosen.map(|(_, launch)| *launch).collect()
    }
}

/// `draw` as shaders/sample/sampling.wgsl has it.
pub(in crate::backend::gpu) fn sampling_words(draw: &Draw, n_vocab: usize) -> Vec<u32> {
    let mode = match (draw.scale == 0.0, draw.orders(n_vocab)) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    };
    let top_k = if draw.limits(n_vocab) { draw.top_k } else { 0 };
    let mut words = vec![draw.seed as u32, (draw.seed >> 32) as u32, draw.index, mode];
    words.extend([draw.scale, draw.floor, draw.min_p, draw.top_p].map(f32::to_bits));
    words.push(top_k);
    let factors = [draw.repetition, 1.0 / draw.repetition, draw.presence, draw.frequency];
    words.extend(factors.map(f32::to_bits));
    words.extend([u32::from(draw.counts()), draw.recent.len() as u32, draw.seen.len() as u32]);
    words.extend([draw.bias.len() as u32, u32::from(draw.allowed.is_some())]);
    words.extend([draw.top.unwrap_or(0) as u32, 0]);
    words.extend_from_slice(&draw.recent);
    words.resize(SAMPLING_WORDS, 0);
    words.extend(draw.seen.iter().flat_map(|(id, count)| [*id, *count]));
    words
}

/// What of the buffer for limits `draw` needs: words, and the word that they begin at.
pub(in crate::backend::gpu) fn limit_words(draw: &Draw, n_vocab: usize) -> (Vec<u32>, usize) {
    let n_words = n_vocab.div_ceil(32);
    let mut words = draw.allowed.as_ref().map_or(Vec::new(), |allowed| allowed.to_vec());
    let first = if draw.allowed.is_some() { 0 } else { n_words };
    words.resize(n_words - first, 0);
    words.extend(draw.bias.iter().flat_map(|(id, bias)| [*id, bias.to_bits()]));
    (words, first)
}

impl Planner<'_> {
    /// Launches for every way to choose a token.
    pub(super) fn choosers(&mut self) -> Result<()> {
        let first = self.plan.launches.len();
        let (op, n_vocab) = (self.model.graph.ops.len(), self.plan.n_vocab as u32);
        let n_runs = n_vocab.div_ceil(ARG_MAX_RUN);
        let runs = self.buffer("largest logits", u64::from(n_runs) * 8);
        let sums = self.buffer("sums of weights", u64::from(n_runs) * 4);
        let tallies = self.buffer("tallies of logits", u64::from(n_runs * N_BUCKETS) * 8);
        let candidates = self.buffer("candidates", 16 + u64::from(Draw::MAX_CANDIDATES) * 8);
        let chosen = self.buffer("chosen tokens", MAX_CHOSEN as u64 * 8);
        let n_seen = self.model.n_ctx.min(Draw::MAX_SEEN);
        // Tokens of the submits under way are added before the CPU knows them.
        let room = n_seen + MOST_BEGUN * MAX_CHOSEN;
        let sampling = self.buffer("sampling", (SAMPLING_WORDS * 4 + room * 8) as u64);
        let n_limits = self.plan.n_vocab.div_ceil(32) + 2 * Draw::MAX_BIASES;
        let limits = self.buffer("limits of draws", n_limits as u64 * 4);
        let raw = self.buffer("logits as they stand", u64::from(n_vocab) * 4);
        let tops = self.buffer("most probable of runs", u64::from(n_runs) * TOP_WORDS as u64 * 4);
        let found = self.buffer("most probable tokens", (MAX_CHOSEN * TOP_WORDS * 4) as u64);
        let logits = self.plan.logits;
        for kernel in KERNELS {
            let (buffers, n_groups): (&[usize], u32) = match kernel {
                Kernel::TopOfRun => (&[sampling, logits, raw, tops], n_runs),
                Kernel::Top => (&[sampling, raw, tops, chosen, found], 1),
                Kernel::Penalise => (&[sampling, limits, logits, runs, sums, tallies], n_runs),
                Kernel::ArgMax => (&[logits, runs], n_runs),
                Kernel::Tally => (&[sampling, runs, logits, sums], n_runs),
                Kernel::Collect => (&[sampling, runs, logits, sums, tallies, candidates], n_runs),
                Kernel::Draw => (&[sampling, runs, logits, sums, candidates, chosen], 1),
                _ => (&[runs, chosen], 1),
            };
            let of_runs = matches!(kernel, Kernel::Choose | Kernel::Top);
            let params = if of_runs { [n_runs, 0] } else { [n_vocab, n_runs] };
            let stage = self.stage(Variant::plain(kernel), flat(n_groups));
            self.launch(op, Rows::Outputs, [stage; 2], &params, buffers)?;
        }
        let launches = (first..self.plan.launches.len()).collect();
        self.plan.choosers = Choosers { launches, chosen, n_seen, found, sampling, limits };
        Ok(())
    }
}
