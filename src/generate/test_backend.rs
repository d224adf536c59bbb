//! A backend for tests whose logits depend on every token before, so that a wrong KV cache cannot go unseen.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use super::{Pause, Sampler, SessionShape};
use crate::backend::{Backend, Counters, Draw, Logprobs, Outputs, Sequences, StepOrder};
use crate::bail;
use crate::error::Result;
use crate::model::graph::Graph;
use crate::tensor::DType;

/// What a position holds that was never written.
const NOTHING: (u32, bool) = (u32::MAX, false);

/// Logits are a hash of all tokens so far.
#[derive(Debug)]
pub(crate) struct HashBackend {
    /// A token, and whether it was computed for a long text.
    kv: Sequences<Vec<(u32, bool)>>,
    n_batch: usize,
    counters: Counters,
    long: bool,
    /// Fails the step with this number (counted from 0), once.
    pub(crate) fail_at_step: Option<u64>,
    /// Steps that it runs at once, choosing by itself.
    pub(crate) chooses: usize,
    /// Every so many steps it cannot tell the token.
    pub(crate) uncertain: Option<u64>,
    /// Time that a token takes.
    pub(crate) slow: Duration,
    /// Most tokens of a step so far, and most steps begun at once.
    pub(crate) largest_step: usize,
    pub(crate) largest_begun: usize,
    begun: VecDeque<usize>,
    /// The token to run, its position, who draws the next and what it looks back at.
    drawing: Option<(u32, usize, Sampler, Vec<u32>)>,
    logprobs: Vec<Logprobs>,
    /// Which positions a step may start at.
    pub(crate) order: Sequences<StepOrder>,
}

impl HashBackend {
    pub(crate) const N_VOCAB: usize = 32;

    pub(crate) fn new(n_ctx: usize, n_batch: usize) -> Self {
        Self {
            kv: Sequences::new(vec![vec![NOTHING; n_ctx]]),
            n_batch,
            counters: Counters::default(),
            long: false,
            fail_at_step: None,
            chooses: 0,
            uncertain: None,
            slow: Duration::ZERO,
            largest_step: 0,
            largest_begun: 0,
            begun: VecDeque::new(),
            drawing: None,
            logprobs: Vec::new(),
            order: Sequences::new(vec![StepOrder::new(false)]),
        }
    }

    pub(crate) fn shape(n_ctx: usize, n_batch: usize) -> SessionShape {
        SessionShape {
            n_ctx,
            n_batch,
            n_sequences: 1,
            n_vocab: Self::N_VOCAB,
            width: Self::N_VOCAB,
            causal: true,
            rewinds: true,
            long_rope_beyond: None,
        }
    }
}

/// What [`HashBackend`] gives after `tokens`.
pub(crate) fn expected_logits(tokens: &[u32]) -> Vec<f32> {
    let hash = tokens.iter().fold(7_u64, |hash, id| super::rng::mix(hash ^ u64::from(*id) << 7));
    let logit = |id: usize| super::rng::unit(hash, id as u32) * 8.0;
    (0..HashBackend::N_VOCAB).map(logit).collect()
}

impl Backend for HashBackend {
    fn upload(&mut self, _weight: usize, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    async fn finish_upload(&mut self) -> Result<()> {
        Ok(())
    }

    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        assert!(!tokens.is_empty() && tokens.len() <= self.n_batch);
        self.order.begin(pos, pos + tokens.len())?;
        std::thread::sleep(self.slow * tokens.len() as u32);
        self.largest_step = self.largest_step.max(tokens.len());
        let step = self.counters.steps;
        self.counters.steps += 1;
        if self.fail_at_step == Some(step) {
            self.kv[pos..].fill(NOTHING);
            bail!(GpuLost, "as the test wants it");
        }
        for (place, token) in self.kv[pos..].iter_mut().zip(tokens) {
            *place = (*token, self.long);
        }
        self.order.finish(pos + tokens.len());
        let first = tokens.len() - outputs.n_rows(tokens.len());
        let rows = first..tokens.len();
        // Tokens computed for texts of the other length are of no use.
        let seen = |(token, long): &(u32, bool)| if *long == self.long { *token } else { u32::MAX };
        let seen: Vec<u32> = self.kv[..pos + tokens.len()].iter().map(seen).collect();
        Ok(rows.flat_map(|row| expected_logits(&seen[..=pos + row])).collect())
    }

    fn select(&mut self, sequence: usize) {
        let n_ctx = self.kv.len();
        self.kv.select(sequence, || vec![NOTHING; n_ctx]);
        self.order.select(sequence, || StepOrder::new(false));
    }

    fn earliest(&self) -> usize {
        self.order.earliest()
    }

    fn chooses(&self, _: &Draw) -> usize {
        self.chooses
    }

    fn choose(&mut self, start: Option<(u32, usize, &Draw)>, n: usize) -> Result<()> {
        assert!(n > 0 && n <= self.chooses);
        if let Some((token, pos, draw)) = start {
            self.begun.clear();
            self.drawing = Some((token, pos, Sampler::of_draw(draw), draw.recent.clone()));
        }
        assert!(self.drawing.is_some() && self.begun.len() < 2);
        self.largest_begun = self.largest_begun.max(n);
        self.begun.push_back(n);
        Ok(())
    }

    async fn chosen(&mut self) -> Result<Vec<u32>> {
        let n = self.begun.pop_front().expect("steps under way");
        let (mut token, mut pos, mut sampler, mut history) = self.drawing.take().expect("a beginning");
        let mut chosen = Vec::new();
        self.logprobs.clear();
        for _ in 0..n {
            let mut logits = self.forward(&[token], pos, Outputs::Last).await?;
            if self.uncertain.is_some_and(|every| self.counters.steps.is_multiple_of(every)) {
                self.begun.clear();
                return Ok(chosen);
            }
            let raw = logits.clone();
            token = sampler.sample(&mut logits, &history)?;
            self.logprobs.extend(sampler.top().map(|n| Logprobs::of(&raw, token, n)));
            history.push(token);
            chosen.push(token);
            pos += 1;
        }
        self.drawing = Some((token, pos, sampler, history));
        Ok(chosen)
    }

    fn take_logprobs(&mut self) -> Vec<Logprobs> {
        std::mem::take(&mut self.logprobs)
    }

    async fn replace_graph(&mut self, _: Graph, _: Vec<DType>, _: usize) -> Result<()> {
        self.kv.all_mut().iter_mut().for_each(|kv| kv.fill(NOTHING));
        Ok(())
    }

    fn use_long_rope(&mut self, long: bool) {
        self.long = long;
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// Says stop after a number of pauses.
pub(crate) struct StopAfter(Cell<usize>);

impl StopAfter {
    pub(crate) fn new(n: usize) -> Self {
        Self(Cell::new(n))
    }
}

impl Pause for StopAfter {
    async fn pause(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    fn step_budget_ms(&self) -> Option<f64> {
        None
    }
}
