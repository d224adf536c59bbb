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
