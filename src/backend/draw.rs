//! How tokens are drawn from logits, in numbers that both a sampler on the CPU and kernels can keep to.
//!
//! Principal type: [`Draw`]. Whoever follows it draws the same token from the same logits. Must not know requests.

use std::rc::Rc;

/// What the next draws are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Factor on logits: 1 / temperature. 0: the token of the largest logit.
    pub scale: f32,
    /// Logits further below the largest than this (a negative number) are of no probability.
    pub floor: f32,
    /// Logits further below the largest than this are not drawn.
    pub min_p: f32,
    /// Keeps the most probable tokens that together reach this probability; 1: all.
    pub top_p: f32,
    /// Keeps so many of the most probable tokens; 0: all.
    pub top_k: u32,
    /// Added to the logits of tokens before anything else is done to them; each token once, at most
    /// [`Draw::MAX_BIASES`].
    pub bias: Vec<(u32, f32)>,
    /// The tokens that may be drawn, a bit each, the lowest of the first word first; those beyond may not. `None`: all.
    pub allowed: Option<Rc<[u32]>>,
    /// Multiplies negative logits of [`Draw::recent`] tokens; positive ones are multiplied with its inverse.
    pub repetition: f32,
    /// Subtracted from logits of [`Draw::seen`] tokens.
    pub presence: f32,
    /// Subtracted from them for each time that they were seen.
    pub frequency: f32,
    /// Seed of the random numbers, and number of the next.
    pub seed: u64,
    /// See [`Draw::seed`].
    pub index: u32,
    /// How many of the most probable tokens are to be told with each that is drawn ([`Logprobs`]); `None`: not even its
    /// own log-probability.
    pub top: Option<usize>,
    /// The last tokens, at most [`Draw::MAX_RECENT`]; none where [`Draw::repetition`] is 1.
    pub recent: Vec<u32>,
    /// Tokens and how often each was generated; none where it does not matter.
    pub seen: Vec<(u32, u32)>,
}

impl Draw {
    /// Tokens that a repetition penalty looks back at.
    pub const MAX_RECENT: usize = 64;
    /// Most different tokens with a presence or frequency penalty, for a backend that draws.
    pub const MAX_SEEN: usize = 4096;
    /// Most tokens with a bias.
    pub const MAX_BIASES: usize = 1024;
    /// Most of the most probable tokens that are told.
    pub const MAX_TOP: usize = 20;
    /// Most candidates a backend that draws can put in order.
    pub const MAX_CANDIDATES: u32 = 1024;

    /// The token of the largest logit.
    pub const BEST: Draw = Draw {
        scale: 0.0,
        floor: 0.0,
        min_p: 0.0,
        top_p: 1.0,
        top_k: 0,
        bias: Vec::new(),
        allowed: None,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        seed: 0,
        index: 0,
        top: None,
        recent: Vec::new(),
        seen: Vec::new(),
    };

    /// Whether logits are changed before a token is chosen.
    pub fn changes(&self) -> bool {
        self.repetition != 1.0 || self.counts() || !self.bias.is_empty() || self.allowed.is_some()
    }

    /// Whether it is the token of the largest logit as it stands, and nothing is to be remembered for the next.
    pub fn is_best(&self) -> bool {
        self.scale == 0.0 && !self.changes()
    }

    /// Whether it matters how often a token was generated.
    pub fn counts(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0
    }

    /// Whether candidates are put in order; otherwise all tokens are drawn from, by their ids.
    pub fn orders(&self, n_vocab: usize) -> bool {
        self.scale != 0.0 && (self.top_p < 1.0 || self.limits(n_vocab))
    }

    /// Whether the number of candidates is limited.
    pub fn limits(&self, n_vocab: usize) -> bool {
        self.top_k > 0 && (self.top_k as usize) < n_vocab
    }
}

/// How probable a drawn token was, and which tokens were the most probable, in natural logarithms: of the softmax of the
/// logits as the model gives them, before bias, penalties, mask and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token drawn.
    pub drawn: f32,
    /// The most probable tokens, the lowest id first of those that are equally so.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Those of token `id` and of the `n` most probable by `logits`, `[n_vocab]`.
    pub fn of(logits: &[f32], id: u32, n: usize) -> Self {
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
        let mut largest = f32::NEG_INFINITY;
        for (logit, id) in logits.iter().zip(0..).filter(|(logit, _)| !logit.is_nan()) {
            largest = largest.max(*logit);
            if top.len() < n || top.last().is_some_and(|(_, least)| logit > least) {
                let at = top.iter().position(|(_, other)| logit > other).unwrap_or(top.len());
                top.insert(at, (id, *logit));
                top.truncate(n);
            }
        }
        let weights = logits.iter().map(|logit| f64::from((logit - largest).exp()));
        let sum: f64 = weights.filter(|weight| !weight.is_nan()).sum();
        Self::from_sum(logits[id as usize], top, largest + sum.ln() as f32)
    }

    /// From logits, and the logarithm of the sum of all logits' powers of e.
    pub fn from_sum(drawn: f32, mut top: Vec<(u32, f32)>, log_sum: f32) -> Self {
        // OpenAI's number for what is all but impossible; JSON has no infinity.
        let logprob = |logit: f32| (logit - log_sum).max(-9999.0);
        top.iter_mut().for_each(|(_, logit)| *logit = logprob(*logit));
        Self { drawn: logprob(drawn), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a sort of all logits and sums in f64.
    #[test]
    fn log_probabilities_are_those_of_a_sorted_softmax() {
        for (n_vocab, scale) in [(1_usize, 1.0), (19, 3.0), (5000, 9.0), (5000, 0.01)] {
            // Some logits come twice, at n_vocab / 2 and before.
            let logits: Vec<f32> =
                (0..n_vocab).map(|id| ((id % 2500) as f32 * 12.9898).sin() * scale + 30.0).collect();
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let logprob = |id: usize| f64::from(logits[id]) - sum.ln();
            let mut order: Vec<usize> = (0..n_vocab).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            for n in [0, 1, 5, 20] {
                let found = Logprobs::of(&logits, (n_vocab / 2) as u32, n);
                assert!((f64::from(found.drawn) - logprob(n_vocab / 2)).abs() < 1e-5);
                let ids: Vec<usize> = found.top.iter().map(|(id, _)| *id as usize).collect();
                assert_eq!(ids, order[..n.min(n_vocab)]);
                let close =
                    |(id, found): &(u32, f32)| (f64::from(*found) - logprob(*id as usize)).abs() < 1e-5;
                assert!(found.top.iter().all(close));
            }
        }
    }

    #[test]
    fn what_cannot_be_has_a_number_too() {
        let found = Logprobs::of(&[0.0, f32::NEG_INFINITY, f32::NAN, -20_000.0], 1, 4);
        let top = vec![(0, 0.0), (3, -9999.0), (1, -9999.0)];
        assert_eq!(found, Logprobs { drawn: -9999.0, top });
    }
}
