//! A backend together with the tokens that its KV cache holds.
//!
//! Principal type: [`Session`]. A prompt that begins like the last one is computed only from where they part.
//! Must not know sampling or text.

use std::collections::VecDeque;

use web_time::Instant;

use super::metrics::difference;
use super::{NoPause, Pause};
use crate::backend::{Backend, Counters, Draw, Logprobs, MOST_BEGUN, Outputs, Profile};
use crate::bail;
use crate::error::{Error, ErrorCode, Result};

/// A backend and the state of its KV cache.
#[derive(Debug)]
pub struct Session<B> {
    backend: B,
    shape: SessionShape,
    /// Token of each filled position of the KV cache.
    tokens: Vec<u32>,
    /// Whether the backend rotates as for long texts.
    long_rope: bool,
    /// Tokens of the next prefill chunk, as measured on the last ones; 0 before the first.
    chunk: usize,
    /// Milliseconds of the last chunk that was one tile.
    tile_ms: f64,
    ahead: Ahead,
}

/// Steps under way whose tokens the backend chooses.
#[derive(Debug, Default)]
struct Ahead {
    /// The numbers of steps begun, those begun first at the front.
    begun: VecDeque<usize>,
    /// The token that the first of them runs.
    next: u32,
}

/// What a session's steps look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionShape {
    /// Positions of the KV cache.
    pub n_ctx: usize,
    /// Most tokens of one step.
    pub n_batch: usize,
    /// Token ids are below this.
    pub n_vocab: usize,
    /// Width of a row of the result: `n_vocab`, but for embedding models.
    pub width: usize,
    /// Whether tokens see only earlier ones. Otherwise a text is one step, and nothing is kept from text to text.
    pub causal: bool,
    /// Whether a step may go back to an earlier position; recurrent models only go on or start anew.
    pub rewinds: bool,
    /// The length beyond which texts are rotated otherwise, if there is one.
    pub long_rope_beyond: Option<usize>,
}

/// A finished prefill.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefilled {
    /// Logits after the last token, `[n_vocab]`.
    pub logits: Vec<f32>,
    /// Tokens at the beginning of the prompt that were in the KV cache already.
    pub n_cached: usize,
}

impl<B: Backend> Session<B> {
    /// A session over a filled backend that was planned for such steps.
    pub fn new(backend: B, shape: SessionShape) -> Self {
        Self {
            backend,
            shape,
            tokens: Vec::new(),
            long_rope: false,
            chunk: 0,
            tile_ms: 0.0,
            ahead: Ahead::default(),
        }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, to run steps by hand; what the KV cache holds is forgotten, because it may change.
    pub fn backend_mut(&mut self) -> &mut B {
        self.tokens.clear();
        &mut self.backend
    }

    /// Forgets what the KV cache holds, and how the backend rotates: its graph is about to be replaced.
    pub(crate) fn reset(&mut self) {
        (self.long_rope, self.chunk) = (false, 0);
        self.tokens.clear();
    }

    /// Positions of the KV cache.
    pub fn n_ctx(&self) -> usize {
        self.shape.n_ctx
    }

    /// Token ids are below this.
    pub fn n_vocab(&self) -> usize {
        self.shape.n_vocab
    }

    /// Most tokens of one step.
    pub fn n_batch(&self) -> usize {
        self.shape.n_batch
    }

    /// Width of a row of the result: the vocabulary, or the elements of an embedding.
    pub fn width(&self) -> usize {
        self.shape.width
    }

    /// The tokens in the KV cache, by position.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Backend work since `before`.
    pub fn counters_since(&self, before: Counters) -> Counters {
        difference(self.backend.counters(), before)
    }

    /// [`Backend::profile`]
    pub fn profile(&mut self, begin: bool) -> Option<Profile> {
        self.backend.profile(begin)
    }

    /// Makes the KV cache hold exactly `ids` and gives the logits after the last of them; `on_progress` gets the
    /// number of tokens in place after each chunk. `None` when `pause` said stop; the work done so far stays of use.
    /// # Errors
    /// `InvalidRequest` for no or unknown tokens, `ContextLengthExceeded`, and what the backend says.
    pub async fn prefill(
        &mut self,
        ids: &[u32],
        pause: &impl Pause,
        mut on_progress: impl FnMut(usize),
    ) -> Result<Option<Prefilled>> {
        self.check(ids)?;
        self.rotate_for(ids.len());
        let common = match self.shape.causal {
            true => self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count(),
            false => 0,
        };
        // The last token is always computed: the cache holds keys and values, not logits.
        let n_cached = common.min(ids.len() - 1);
        let is_there =
            (self.shape.rewinds || n_cached == self.tokens.len()) && n_cached >= self.backend.earliest();
        let n_cached = if is_there { n_cached } else { 0 };
        self.tokens.truncate(n_cached);
        // That a tile took too long may have been a hiccup: each prompt measures it again.
        self.chunk = if self.chunk == 1 { 0 } else { self.chunk };
        loop {
            if !pause.pause().await {
                return Ok(None);
            }
            let pos = self.tokens.len();
            let end = ids.len().min(pos + self.chunk_len(pause));
            let outputs = match end == ids.len() {
                true => Outputs::Last,
                false => Outputs::None,
            };
            let start = Instant::now();
            let logits = self.forward(&ids[pos..end], outputs).await?;
            self.adapt_chunk(end - pos, start.elapsed().as_secs_f64() * 1e3, pause);
            on_progress(end);
            if end == ids.len() {
                return Ok(Some(Prefilled { logits, n_cached }));
            }
        }
    }

    /// Appends one token and gives the logits after it, `[n_vocab]`.
    /// # Errors
    /// `ContextLengthExceeded` when the KV cache is full, and what the backend says.
    pub async fn decode(&mut self, id: u32) -> Result<Vec<f32>> {
        let logits = self.append(id, &NoPause).await?;
        Ok(logits.expect("invariant: nothing said stop"))
    }

    /// As [`Session::decode`]; `None` when `pause` said stop. That is asked only where the text becomes so long that
    /// all of it is rotated anew, which takes as long as a prefill.
    /// # Errors
    /// As [`Session::decode`].
    pub async fn append(&mut self, id: u32, pause: &impl Pause) -> Result<Option<Vec<f32>>> {
        if self.tokens.len() >= self.shape.n_ctx {
            bail!(ContextLengthExceeded, "the context of {} tokens is full", self.shape.n_ctx);
        }
        if self.is_long(self.tokens.len() + 1) == self.long_rope {
            return self.forward(&[id], Outputs::Last).await.map(Some);
        }
        let mut ids = self.tokens.clone();
        ids.push(id);
        let prefilled = self.prefill(&ids, pause, |_| ()).await?;
        Ok(prefilled.map(|prefilled| prefilled.logits))
    }

    /// [`Backend::reuse`]
    pub fn reuse(&mut self, logits: Vec<f32>) {
        self.backend.reuse(logits);
    }

    /// How many of `wanted` steps [`Session::choose`] can begin now; 0 where the backend does not choose.
    pub fn steps_ahead(&self, wanted: usize, draw: &Draw) -> usize {
        let n_begun = self.n_ahead();
        // What a recurrent model has gone through cannot be taken back.
        if n_begun > 0 && (!self.shape.rewinds || self.ahead.begun.len() >= MOST_BEGUN) {
            return 0;
        }
        let n_cached = self.tokens.len() + n_begun;
        let room = self.shape.n_ctx.saturating_sub(n_cached);
        let same = |n: &usize| self.is_long(n_cached + n) == self.long_rope;
        let most = wanted.min(self.backend.chooses(draw)).min(room);
        (1..=most).take_while(same).last().unwrap_or(0)
    }

    /// Steps begun and not yet waited for.
    pub fn n_ahead(&self) -> usize {
        self.ahead.begun.iter().sum()
    }

    /// Begins `n` steps, as many as [`Session::steps_ahead`] allows: of `id` and of what is drawn after it, and so on;
    /// or behind those under way.
    /// # Errors
    /// What the backend says.
    pub fn choose(&mut self, id: u32, draw: &Draw, n: usize) -> Result<()> {
        let start = self.ahead.begun.is_empty().then_some((id, self.tokens.len(), draw));
        self.backend.choose(start, n)?;
        if start.is_some() {
            self.ahead.next = id;
        }
        self.ahead.begun.push_back(n);
        Ok(())
    }

    /// Waits for the steps that were begun first, and gives what was drawn after each, as long as it is certain; where
    /// not all is, the last token is not appended and nothing is under way any more. See [`Session::truncate`] for
    /// tokens that turn out not to be wanted.
    /// # Errors
    /// What the backend says.
    pub async fn chosen(&mut self) -> Result<Vec<u32>> {
        // As in a step: half way through, a recurrent model's memory belongs to no list of tokens.
        let known = (!self.shape.rewinds).then(|| std::mem::take(&mut self.tokens));
        let chosen = self.backend.chosen().await?;
        if let Some(known) = known {
            self.tokens = known;
        }
        let n = self.ahead.begun.pop_front().unwrap_or(0);
        if let Some((last, others)) = chosen.split_last() {
            self.tokens.push(self.ahead.next);
            self.tokens.extend_from_slice(others);
            self.ahead.next = *last;
        }
        if chosen.len() < n {
            self.ahead.begun.clear();
        }
        Ok(chosen)
    }

    /// [`Backend::take_logprobs`]
    pub fn take_logprobs(&mut self) -> Vec<Logprobs> {
        self.backend.take_logprobs()
    }

    /// Forgets all but the first `n` tokens, and what is under way.
    pub fn truncate(&mut self, n: usize) {
        self.ahead.begun.clear();
        self.tokens.truncate(n);
    }

    fn is_long(&self, n_tokens: usize) -> bool {
        self.shape.long_rope_beyond.is_some_and(|limit| n_tokens > limit)
    }

    /// Readies the backend for a text of `n_tokens`; [`Session::prefill`] and all that follows it do so themselves.
    pub fn rotate_for(&mut self, n_tokens: usize) {
        let long = self.is_long(n_tokens);
        if long != self.long_rope {
            self.backend.use_long_rope(long);
            self.long_rope = long;
            // What is cached was rotated for texts of the other kind.
            self.tokens.clear();
        }
    }

    /// Logits of the last or of all of `ids`, `[n_outputs, n_vocab]`, computed afresh from position 0. `None` when
    /// `pause` said stop.
    /// # Errors
    /// As [`Session::prefill`], and `OutOfMemory`.
    pub async fn logits(&mut self, ids: &[u32], all: bool, pause: &impl Pause) -> Result<Option<Vec<f32>>> {
        self.tokens.clear();
        if !all {
            let prefilled = self.prefill(ids, pause, |_| ()).await?;
            return Ok(prefilled.map(|prefilled| prefilled.logits));
        }
        self.check(ids)?;
        self.rotate_for(ids.len());
        let mut logits = Vec::new();
        // Logits of a long text and a large vocabulary are gigabytes: say so instead of trapping.
        if logits.try_reserve_exact(ids.len().saturating_mul(self.shape.width)).is_err() {
            bail!(
                OutOfMemory,
                "the logits of {} tokens do not fit into memory: ask for fewer, or for the last one's only",
                ids.len()
            );
        }
        while self.tokens.len() < ids.len() {
            if !pause.pause().await {
                return Ok(None);
            }
            let pos = self.tokens.len();
            let chunk = &ids[pos..ids.len().min(pos + self.chunk_len(pause))];
            let start = Instant::now();
            logits.extend(self.forward(chunk, Outputs::All).await?);
            self.adapt_chunk(chunk.len(), start.elapsed().as_secs_f64() * 1e3, pause);
        }
        Ok(Some(logits))
    }

    /// One step behind the cached tokens. A step that fails, or is dropped half way, leaves only tokens of whole
    /// steps in the log; the next one overwrites the rest. Of a recurrent model it leaves none.
    async fn forward(&mut self, ids: &[u32], outputs: Outputs) -> Result<Vec<f32>> {
        self.ahead.begun.clear();
        let pos = self.tokens.len();
        // While a recurrent model is half way through a step, what it remembers belongs to no list of tokens.
        let known = (!self.shape.rewinds).then(|| std::mem::take(&mut self.tokens));
        let logits = self.backend.forward(ids, pos, outputs).await?;
        let expected = outputs.n_rows(ids.len()) * self.shape.width;
        if logits.len() != expected {
            bail!(Internal, "the backend gave {} logits instead of {expected}", logits.len());
        }
        if let Some(known) = known {
            self.tokens = known;
        }
        self.tokens.extend_from_slice(ids);
        Ok(logits)
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::new(ErrorCode::InvalidRequest, "there are no tokens to compute").at("prompt"));
        }
        if let Some(index) = ids.iter().position(|id| *id as usize >= self.shape.n_vocab) {
            let message = format!("{} is no token: the vocabulary has {}", ids[index], self.shape.n_vocab);
            return Err(Error::new(ErrorCode::InvalidRequest, message).at(format!("prompt[{index}]")));
        }
        if ids.len() > self.shape.n_ctx {
            let message = format!(
                "the prompt has {} tokens, the context holds {}: shorten it, or load the model with a larger context",
                ids.len(),
                self.shape.n_ctx
            );
            return Err(Error::new(ErrorCode::ContextLengthExceeded, message).at("prompt"));
        }
        Ok(())
    }

    fn chunk_len(&self, pause: &impl Pause) -> usize {
        let n_batch = self.shape.n_batch;
        match (pause.step_budget_ms(), self.chunk) {
            _ if !self.shape.causal => n_batch,
            (None, _) => n_batch,
            // Before anything was measured: short enough for a phone.
            (Some(_), 0) => self.backend.tile().min(n_batch),
            (Some(_), chunk) => chunk,
        }
    }

    /// Sets the next chunk to what fits the budget, given that `n` tokens took `ms`; the rest of a prompt says nothing.
    fn adapt_chunk(&mut self, n: usize, ms: f64, pause: &impl Pause) {
        if let Some(budget) = pause.step_budget_ms()
            && n == self.chunk_len(pause)
        {
            let tile = self.backend.tile();
            self.tile_ms = if n == tile { ms } else { self.tile_ms };
            self.chunk = next_chunk(n, ms, budget, tile, self.tile_ms).min(self.shape.n_batch);
        }
    }
}

/// How many tokens fit `budget` when `n` took `ms`: growing at most to double, because short chunks measure badly
/// (attention grows with the position, a first step compiles and warms up). A part of a tile takes as long as the whole,
/// so where less fits it is one tile, up to twice the budget (an abort shall be heard within 200 ms), or one token; a tile
/// that took `tile_ms` is tried again after a token that took more than two of the tile's.
fn next_chunk(n: usize, ms: f64, budget: f64, tile: usize, tile_ms: f64) -> usize {
    let ms = ms.max(1e-3);
    let fitting = (n as f64 * budget / ms).min(2.0 * n.max(8) as f64) as usize;
    let of_tile = ms * tile as f64 / n as f64;
    match fitting {
        8.. => fitting / 8 * 8,
        _ if of_tile <= 2.0 * budget || (n == 1 && 2.0 * tile_ms < of_tile) => tile,
        _ => 1,
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::super::test_backend::{HashBackend, StopAfter, expected_logits};
    use super::*;
    use crate::backend::StepOrder;

    fn session(n_ctx: usize, n_batch: usize) -> Session<HashBackend> {
        Session::new(HashBackend::new(n_ctx, n_batch), HashBackend::shape(n_ctx, n_batch))
    }

    /// Whatever is left of the other rotation would be seen: the test's backend forgets its cache.
    #[test]
    fn a_text_that_becomes_long_is_computed_anew() {
        let backend = HashBackend::new(64, 4);
        let shape = SessionShape { long_rope_beyond: Some(9), ..HashBackend::shape(64, 4) };
        let mut session = Session::new(backend, shape);
        let mut ids = vec![3, 1, 2];
        block_on(session.prefill(&ids, &NoPause, |_| ())).unwrap();
        while ids.len() < 14 {
            let id = ids.len() as u32;
            ids.push(id);
            assert_eq!(block_on(session.decode(id)).unwrap(), expected_logits(&ids), "{} tokens", ids.len());
            assert_eq!(session.tokens(), ids);
        }
        // Three chunks hold the ten tokens that came to be rotated anew; other tokens are one step each.
        assert_eq!(session.backend().counters().steps, 1 + 6 + 3 + 4);
        let short = block_on(session.prefill(&ids[..5], &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!((short.logits, short.n_cached), (expected_logits(&ids[..5]), 0));
        let all = block_on(session.logits(&ids[..10], true, &NoPause)).unwrap().unwrap();
        assert_eq!(all[9 * HashBackend::N_VOCAB..], expected_logits(&ids[..10]));
        // Stopped while it is computed anew.
        block_on(session.prefill(&ids[..9], &NoPause, |_| ())).unwrap();
        assert_eq!(block_on(session.append(9, &StopAfter::new(1))).unwrap(), None);
        assert_eq!(
            block_on(session.prefill(&ids, &NoPause, |_| ())).unwrap().unwrap().logits,
            expected_logits(&ids)
        );
    }

    #[test]
    fn prefill_in_chunks_gives_the_logits_of_the_whole() {
        let ids: Vec<u32> = (0..37).map(|i| i * 7 % 31).collect();
        for n_batch in [1, 5, 16, 64] {
            let mut session = session(64, n_batch);
            let mut progress = Vec::new();
            let prefilled = block_on(session.prefill(&ids, &NoPause, |n| progress.push(n))).unwrap().unwrap();
            assert_eq!(prefilled.logits, expected_logits(&ids));
            assert_eq!(prefilled.n_cached, 0);
            assert_eq!(progress.len(), ids.len().div_ceil(n_batch));
            assert_eq!(progress.last(), Some(&37));
            assert_eq!(session.tokens(), ids);
        }
    }

    #[test]
    fn a_common_beginning_is_not_computed_again() {
        let mut session = session(64, 8);
        let run = |session: &mut Session<HashBackend>, ids: &[u32]| {
            let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
            assert_eq!(prefilled.logits, expected_logits(ids));
            prefilled.n_cached
        };
        assert_eq!(run(&mut session, &[1, 2, 3, 4]), 0);
        assert_eq!(block_on(session.decode(5)).unwrap(), expected_logits(&[1, 2, 3, 4, 5]));
        assert_eq!(run(&mut session, &[1, 2, 3, 4, 5, 6, 7]), 5);
        assert_eq!(run(&mut session, &[1, 2, 9]), 2);
        assert_eq!(run(&mut session, &[1, 2, 9]), 2, "the last token is always computed");
        assert_eq!(run(&mut session, &[2]), 0);
    }

    #[test]
    fn all_logits_are_those_of_every_prefix() {
        let ids: Vec<u32> = (0..20).map(|i| i * 5 % 31).collect();
        let mut session = session(32, 6);
        let all = block_on(session.logits(&ids, true, &NoPause)).unwrap().unwrap();
        let expected: Vec<f32> = (1..=ids.len()).flat_map(|n| expected_logits(&ids[..n])).collect();
        assert_eq!(all, expected);
        let last = block_on(session.logits(&ids, false, &NoPause)).unwrap().unwrap();
        assert_eq!(last, expected_logits(&ids));
    }

    #[test]
    fn wrong_prompts_are_refused_with_their_place() {
        let mut session = session(8, 8);
        for (ids, code, field) in [
            (&[][..], ErrorCode::InvalidRequest, "prompt"),
            (&[1, 99], ErrorCode::InvalidRequest, "prompt[1]"),
            (&[1; 9], ErrorCode::ContextLengthExceeded, "prompt"),
        ] {
            let error = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap_err();
            assert_eq!((error.code(), error.field()), (code, Some(field)));
            let error = block_on(session.logits(ids, true, &NoPause)).unwrap_err();
            assert_eq!((error.code(), error.field()), (code, Some(field)));
        }
        block_on(session.prefill(&[1; 8], &NoPause, |_| ())).unwrap();
        assert_eq!(block_on(session.decode(1)).unwrap_err().code(), ErrorCode::ContextLengthExceeded);
    }

    #[test]
    fn stopping_and_failing_leave_a_usable_session() {
        let ids: Vec<u32> = (0..20).collect();
        let mut session = session(32, 4);
        assert_eq!(block_on(session.prefill(&ids, &StopAfter::new(2), |_| ())).unwrap(), None);
        assert_eq!(session.tokens(), &ids[..8], "two chunks were done");
        session.backend.fail_at_step = Some(session.backend.counters().steps + 1);
        assert!(block_on(session.prefill(&ids, &NoPause, |_| ())).is_err());
        assert_eq!(session.tokens(), &ids[..12], "one more chunk was done before the failing one");
        let prefilled = block_on(session.prefill(&ids, &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!((prefilled.n_cached, prefilled.logits), (12, expected_logits(&ids)));
    }

    /// The backend refuses, as those do whose caches keep what windows show, to go far back.
    #[test]
    fn a_forgotten_beginning_is_computed_again() {
        let mut session = session(64, 4);
        session.backend.order = StepOrder::forgetting(6);
        let mut ids: Vec<u32> = (1..=20).collect();
        let mut run = |ids: &[u32]| {
            let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
            assert_eq!(prefilled.logits, expected_logits(ids));
            prefilled.n_cached
        };
        assert_eq!(run(&ids), 0);
        ids[15] = 29;
        assert_eq!(run(&ids), 15);
        ids[13] = 28;
        assert_eq!(run(&ids), 0, "only what comes after 14 is there, as 20 were written");
        assert_eq!(run(&ids[..15]), 14);
    }

    /// The backend refuses, as recurrent ones do, whatever is neither a beginning nor a continuation.
    #[test]
    fn recurrent_models_go_on_or_start_anew() {
        let mut session = session(64, 4);
        session.shape.rewinds = false;
        session.backend.order = StepOrder::new(true);
        let run = |session: &mut Session<HashBackend>, ids: &[u32]| {
            let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
            assert_eq!(prefilled.logits, expected_logits(ids));
            prefilled.n_cached
        };
        assert_eq!(run(&mut session, &[1, 2, 3, 4, 5]), 0);
        assert_eq!(block_on(session.decode(6)).unwrap(), expected_logits(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(run(&mut session, &[1, 2, 3, 4, 5, 6, 7, 8]), 6);
        assert_eq!(run(&mut session, &[1, 2, 3, 4, 5, 6, 7, 8]), 0, "the last logits are not kept");
        assert_eq!(run(&mut session, &[1, 2, 3, 9]), 0);
        session.backend.fail_at_step = Some(session.backend.counters().steps + 1);
        assert!(block_on(session.prefill(&[1, 2, 3, 9, 4, 5, 6, 7, 8], &NoPause, |_| ())).is_err());
        assert_eq!(
            session.tokens(),
            &[] as &[u32],
            "the state is neither that of the chunk before nor of the next"
        );
        assert_eq!(run(&mut session, &[1, 2, 3, 9, 4]), 0);
        let longer = [1, 2, 3, 9, 4, 5, 6, 7, 8, 10];
        assert_eq!(block_on(session.prefill(&longer, &StopAfter::new(1), |_| ())).unwrap(), None);
        assert_eq!(session.tokens(), &longer[..9], "a whole chunk stays of use");
        assert_eq!(run(&mut session, &longer), 9);
    }

    #[test]
    fn the_first_chunk_is_short_when_there_is_a_budget() {
        struct Hurried;
        impl Pause for Hurried {
            async fn pause(&self) -> bool {
                true
            }
        }
        let ids: Vec<u32> = (0..30).collect();
        let mut session = session(64, 16);
        let mut progress = Vec::new();
        let prefilled = block_on(session.prefill(&ids, &Hurried, |n| progress.push(n))).unwrap().unwrap();
        assert_eq!(progress[0], 4);
        assert_eq!(prefilled.logits, expected_logits(&ids));
    }

    /// Each step is a submit that nothing interrupts: on a slow device it has fewer tokens.
    #[test]
    fn steps_are_short_on_a_slow_device() {
        struct Hurried;
        impl Pause for Hurried {
            async fn pause(&self) -> bool {
                true
            }
        }
        let ids: Vec<u32> = (0..120).map(|i| i % 31).collect();
        let mut session = session(128, 64);
        for milliseconds in [5, 12] {
            let backend = session.backend_mut();
            (backend.slow, backend.largest_step) = (std::time::Duration::from_millis(milliseconds), 0);
            let prefilled = block_on(session.prefill(&ids, &Hurried, |_| ())).unwrap().unwrap();
            assert_eq!(prefilled.logits, expected_logits(&ids));
            session.reset();
            let largest = session.backend().largest_step;
            assert!(largest as u64 * milliseconds <= 100, "{largest} tokens of {milliseconds} ms");
        }
    }

    #[test]
    fn chunks_follow_the_budget() {
        assert_eq!(next_chunk(16, 400.0, 100.0, 4, 240.0), 4);
        assert_eq!(next_chunk(16, 100.0, 100.0, 4, 240.0), 16);
        assert_eq!(next_chunk(16, 1.0, 100.0, 4, 240.0), 32, "growing is gradual");
        assert_eq!(next_chunk(1, 0.0, 100.0, 4, 240.0), 16);
        assert_eq!(next_chunk(64, 110.0, 100.0, 8, 240.0), 56);
        assert_eq!(next_chunk(4, 180.0, 100.0, 4, 240.0), 4, "a part of a tile takes as long as the whole");
        assert_eq!(next_chunk(8, 180.0, 100.0, 8, 240.0), 8);
        assert_eq!(next_chunk(4, 300.0, 100.0, 4, 240.0), 1);
        assert_eq!(next_chunk(1, 60.0, 100.0, 4, 240.0), 1, "a tile would take too long");
        assert_eq!(next_chunk(1, 40.0, 100.0, 4, 240.0), 4);
        assert_eq!(next_chunk(1, 110.0, 100.0, 8, 240.0), 8, "a tile takes as long as two tokens");
    }
}
