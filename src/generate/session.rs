//! A backend together with the tokens that its KV caches hold.
//!
//! Principal type: [`Session`]. A prompt that goes on with a text that is kept is computed only from where they part.
//! Must not know sampling or text.

use std::collections::VecDeque;

use web_time::Instant;

use super::chunk::ChunkLen;
use super::metrics::difference;
use super::texts::{Text, place};
use super::{NoPause, Pause};
use crate::backend::{Backend, Counters, Draw, Logprobs, MOST_BEGUN, Outputs, Profile, Sequences};
use crate::bail;
use crate::error::{Error, ErrorCode, Result};

/// A backend and the state of its KV caches.
#[derive(Debug)]
pub struct Session<B> {
    backend: B,
    shape: SessionShape,
    /// What is kept; the selected one is worked on.
    texts: Sequences<Text>,
    /// Whether the backend rotates as for long texts.
    long_rope: bool,
    chunk: ChunkLen,
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
    /// Positions of a KV cache.
    pub n_ctx: usize,
    /// Most tokens of one step.
    pub n_batch: usize,
    /// Texts that are kept, each in a KV cache of its own; at least one.
    pub n_sequences: usize,
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
            texts: Sequences::new(vec![Text::default(); shape.n_sequences]),
            long_rope: false,
            chunk: ChunkLen::default(),
            ahead: Ahead::default(),
        }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, to run steps by hand; what the KV caches hold is forgotten, because it may change.
    pub fn backend_mut(&mut self) -> &mut B {
        self.texts.all_mut().iter_mut().for_each(|text| text.tokens.clear());
        &mut self.backend
    }

    /// The backend, whose graph is about to be replaced: how it rotates is forgotten as well.
    pub(crate) fn backend_to_change(&mut self) -> &mut B {
        (self.long_rope, self.chunk) = (false, ChunkLen::default());
        self.backend_mut()
    }

    /// Positions of a KV cache.
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

    /// The tokens in the KV cache of the text that is worked on, by position.
    pub fn tokens(&self) -> &[u32] {
        &self.texts.tokens
    }

    /// Backend work since `before`.
    pub fn counters_since(&self, before: Counters) -> Counters {
        difference(self.backend.counters(), before)
    }

    /// [`Backend::profile`]
    pub fn profile(&mut self, begin: bool) -> Option<Profile> {
        self.backend.profile(begin)
    }

    /// Makes a KV cache hold exactly `ids`, that of the text that they go on with, and gives the logits after the last of
    /// them; `on_progress` gets the number of tokens in place after each chunk. `None` when `pause` said stop; the work
    /// done so far stays of use.
    /// # Errors
    /// `InvalidRequest` for no or unknown tokens, `ContextLengthExceeded`, and what the backend says.
    pub async fn prefill(
        &mut self,
        ids: &[u32],
        pause: &impl Pause,
        mut on_progress: impl FnMut(usize),
    ) -> Result<Option<Prefilled>> {
        self.fill(ids, pause, &mut on_progress).await
    }

    /// As [`Session::prefill`], compiled once for all who ask.
    async fn fill(
        &mut self,
        ids: &[u32],
        pause: &impl Pause,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Option<Prefilled>> {
        self.check(ids)?;
        self.begin(ids, ids.len());
        let common = if self.shape.causal { self.texts.common(ids) } else { 0 };
        // The last token is always computed: the cache holds keys and values, not logits.
        let n_cached = common.min(ids.len() - 1);
        let is_there =
            (self.shape.rewinds || n_cached == self.tokens().len()) && n_cached >= self.backend.earliest();
        let n_cached = if is_there { n_cached } else { 0 };
        self.texts.tokens.truncate(n_cached);
        self.chunk.begin();
        loop {
            if !pause.pause().await {
                return Ok(None);
            }
            let pos = self.tokens().len();
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

    /// Takes up the text that `ids` go on with, or makes room where they go on with none, and readies the backend for
    /// `n_tokens` of it.
    fn begin(&mut self, ids: &[u32], n_tokens: usize) {
        let used = self.texts.all().iter().map(|text| text.used).max().unwrap_or(0) + 1;
        let sequence = place(self.texts.all(), ids);
        self.texts.select(sequence, Text::default);
        (self.texts.n_prompt, self.texts.used) = (n_tokens, used);
        self.backend.select(sequence);
        self.rotate_for(n_tokens);
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
        if self.tokens().len() >= self.shape.n_ctx {
            bail!(ContextLengthExceeded, "the context of {} tokens is full", self.shape.n_ctx);
        }
        if self.is_long(self.tokens().len() + 1) == self.long_rope {
            return self.forward(&[id], Outputs::Last).await.map(Some);
        }
        let mut ids = self.tokens().to_vec();
        ids.push(id);
        let prefilled = self.fill(&ids, pause, &mut |_| ()).await?;
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
        let n_cached = self.tokens().len() + n_begun;
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
        let start = self.ahead.begun.is_empty().then_some((id, self.tokens().len(), draw));
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
        let known = (!self.shape.rewinds).then(|| std::mem::take(&mut self.texts.tokens));
        let chosen = self.backend.chosen().await?;
        if let Some(known) = known {
            self.texts.tokens = known;
        }
        let n = self.ahead.begun.pop_front().unwrap_or(0);
        if let Some((last, others)) = chosen.split_last() {
            self.texts.tokens.push(self.ahead.next);
            self.texts.tokens.extend_from_slice(others);
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
        self.texts.tokens.truncate(n);
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
        }
        if long != self.texts.long_rope {
            // What is cached was rotated for texts of the other kind.
            self.texts.tokens.clear();
            self.texts.long_rope = long;
        }
    }

    /// Logits of the last or of all of `ids`, `[n_outputs, n_vocab]`, computed afresh from position 0. `None` when
    /// `pause` said stop.
    /// # Errors
    /// As [`Session::prefill`], and `OutOfMemory`.
    pub async fn logits(&mut self, ids: &[u32], all: bool, pause: &impl Pause) -> Result<Option<Vec<f32>>> {
        self.check(ids)?;
        let mut logits = Vec::new();
        // Logits of a long text and a large vocabulary are gigabytes: say so instead of trapping.
        if all && logits.try_reserve_exact(ids.len().saturating_mul(self.shape.width)).is_err() {
            bail!(
                OutOfMemory,
                "the logits of {} tokens do not fit into memory: ask for fewer, or for the last one's only",
                ids.len()
            );
        }
        self.begin(&[], ids.len());
        self.texts.tokens.clear();
        while self.tokens().len() < ids.len() {
            if !pause.pause().await {
                return Ok(None);
            }
            let pos = self.tokens().len();
            let chunk = &ids[pos..ids.len().min(pos + self.chunk_len(pause))];
            let outputs = match pos + chunk.len() == ids.len() {
                _ if all => Outputs::All,
                true => Outputs::Last,
                false => Outputs::None,
            };
            let start = Instant::now();
            logits.extend(self.forward(chunk, outputs).await?);
            self.adapt_chunk(chunk.len(), start.elapsed().as_secs_f64() * 1e3, pause);
        }
        Ok(Some(logits))
    }

    /// One step behind the cached tokens. A step that fails, or is dropped half way, leaves only tokens of whole
    /// steps in the log; the next one overwrites the rest. Of a recurrent model it leaves none.
    async fn forward(&mut self, ids: &[u32], outputs: Outputs) -> Result<Vec<f32>> {
        self.ahead.begun.clear();
        let pos = self.tokens().len();
        // While a recurrent model is half way through a step, what it remembers belongs to no list of tokens.
        let known = (!self.shape.rewinds).then(|| std::mem::take(&mut self.texts.tokens));
        let logits = self.backend.forward(ids, pos, outputs).await?;
        let expected = outputs.n_rows(ids.len()) * self.shape.width;
        if logits.len() != expected {
            bail!(Internal, "the backend gave {} logits instead of {expected}", logits.len());
        }
        if let Some(known) = known {
            self.texts.tokens = known;
        }
        self.texts.tokens.extend_from_slice(ids);
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
        match pause.step_budget_ms() {
            Some(_) if self.shape.causal => self.chunk.get(self.backend.tile()).min(n_batch),
            _ => n_batch,
        }
    }

    /// Sets the next chunk to what fits the budget, given that `n` tokens took `ms`; the rest of a prompt says nothing.
    fn adapt_chunk(&mut self, n: usize, ms: f64, pause: &impl Pause) {
        if let Some(budget) = pause.step_budget_ms()
            && n == self.chunk_len(pause)
        {
            self.chunk.took(n, ms, budget, self.backend.tile());
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[cfg(test)]
mod tests;
