//! The decode loop: sample, show, stop or go on.
//!
//! Principal function: [`generate`]. Must not know tokenizers (see [`TextDecoder`]) or backends beyond their trait.

use serde::{Deserialize, Serialize};
use web_time::Instant;

use super::logprobs::{Held, TokenLogprob};
use super::metrics::{Metrics, milliseconds, per_second};
use super::pace::Pace;
use super::stop::{Matched, StopMatcher};
use super::{Pause, Prefilled, Sampler, SamplingParams, Session};
use crate::backend::{Backend, Draw, Logprobs};
use crate::error::Result;

/// Turns tokens into text, one after the other.
pub trait TextDecoder {
    /// The text that becomes certain with `id`; bytes of an unfinished character are held back.
    fn push(&mut self, id: u32) -> String;
    /// What was held back.
    fn finish(&mut self) -> String;
    /// Whether `id` ends the model's turn.
    fn is_end(&self, id: u32) -> bool;
    /// What `id` stands for by itself, perhaps a part of a character.
    fn bytes(&self, id: u32) -> Vec<u8>;
}

/// Why the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string or token came.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// [`Pause`] said stop.
    Abort,
}

/// What happens while a request runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// This many of the prompt's tokens are in the KV cache.
    Prefill {
        /// Tokens in place.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// New text, often that of one token; all pieces together are [`Generated::text`].
    Text {
        /// The token just generated; none when held back text is let go after the last token.
        id: Option<u32>,
        /// Empty while a character is unfinished or a stop string may be coming.
        text: String,
        /// Of the tokens that the text is of, and of those before them without a text of their own, where
        /// [`SamplingParams::top_logprobs`] asks for it. A token comes with the first of its text that is shown.
        logprobs: Vec<TokenLogprob>,
    },
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// All generated tokens, the one that ended the turn included.
    pub ids: Vec<u32>,
    /// The text, without end tokens and stop strings.
    pub text: String,
    /// All that came with the text: neither the token that ended the turn is there, nor those of a stop string.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt that were in the KV cache.
    pub n_cached: usize,
    /// Speeds and work.
    pub metrics: Metrics,
}

/// Generates from `prompt` until something ends the text; see [`FinishReason`]. Whatever ends it, an error included,
/// the session stays usable.
/// # Errors
/// `InvalidRequest` for wrong settings or tokens, `ContextLengthExceeded` for a prompt longer than the context, and
/// what the backend says.
pub async fn generate<B: Backend, D: TextDecoder>(
    session: &mut Session<B>,
    prompt: &[u32],
    params: SamplingParams,
    decoder: D,
    pause: &impl Pause,
    mut on_event: impl FnMut(Event),
) -> Result<Generated> {
    let start = Instant::now();
    let counters = session.backend().counters();
    let mut run = Run::new(params, decoder, session.n_ctx(), session.n_vocab())?;
    let total = prompt.len();
    let progress = |done| on_event(Event::Prefill { done, total });
    let prefilled = session.prefill(prompt, pause, progress).await?;

    let mut metrics = Metrics::default();
    let mut n_cached = 0;
    let mut finish_reason = FinishReason::Abort;
    if let Some(Prefilled { mut logits, n_cached: cached }) = prefilled {
        n_cached = cached;
        metrics.ttft_ms = milliseconds(start);
        metrics.prefill_tok_s = per_second(total - cached, metrics.ttft_ms);
        let first = Instant::now();
        let mut pace = Pace::default();
        let mut next = Next::Logits(std::mem::take(&mut logits));
        finish_reason = loop {
            let reason = match next {
                Next::Logits(mut logits) => {
                    let reason = run.next(&mut logits, session.tokens(), &mut on_event)?;
                    session.reuse(logits);
                    reason
                }
                Next::Chosen { first, ids } => {
                    let logprobs = session.take_logprobs();
                    run.take_all(session, first, &ids, logprobs, &mut on_event)
                }
            };
            if let Some(reason) = reason {
                break reason;
            }
            if !pause.pause().await {
                break FinishReason::Abort;
            }
            let last = run.ids.last().expect("invariant: going on means that a token was chosen");
            run.go_ahead(session, *last, &mut pace)?;
            next = if session.n_ahead() > 0 {
                let (first, n) = (session.tokens().len() + 1, session.n_ahead());
                let ids = session.chosen().await?;
                pace.adapt(ids.len(), ids.len() + session.n_ahead() == n);
                Next::Chosen { first, ids }
            } else {
                pace.rest = pace.rest.saturating_sub(1);
                match session.append(*last, pause).await? {
                    Some(logits) => Next::Logits(logits),
                    None => break FinishReason::Abort,
                }
            };
        };
        // Steps may be under way whose tokens nobody waits for.
        session.truncate(session.tokens().len());
        metrics.decode_tok_s = per_second(run.ids.len().saturating_sub(1), milliseconds(first));
    }
    run.let_go(&mut on_event);
    metrics.counters = session.counters_since(counters);
    Ok(Generated { ids: run.ids, text: run.text, logprobs: run.logprobs, finish_reason, n_cached, metrics })
}

/// What the backend gave.
enum Next {
    /// Logits to choose from.
    Logits(Vec<f32>),
    /// Tokens, chosen one after the other, the first of them after `first` tokens.
    Chosen { first: usize, ids: Vec<u32> },
}

/// One generation under way: how tokens are chosen, and what they have become so far.
struct Run<D> {
    sampler: Sampler,
    decoder: D,
    stop: StopMatcher,
    stop_token_ids: Vec<u32>,
    max_tokens: usize,
    n_ctx: usize,
    ids: Vec<u32>,
    text: String,
    /// A stop string has come: what is held back is not part of the text.
    stopped: bool,
    /// Bytes of text so far, those held back by `stop` included.
    n_decoded: usize,
    /// What was given out, where it is wanted, and what was not yet.
    logprobs: Option<Vec<TokenLogprob>>,
    held: Held,
}

impl<D: TextDecoder> Run<D> {
    fn new(params: SamplingParams, decoder: D, n_ctx: usize, n_vocab: usize) -> Result<Self> {
        Ok(Self {
            stop: StopMatcher::new(params.stop.clone()),
            stop_token_ids: params.stop_token_ids.clone(),
            max_tokens: params.max_tokens.map_or(usize::MAX, |n| n as usize),
            sampler: Sampler::new(&params, n_vocab)?,
            decoder,
            n_ctx,
            ids: Vec::new(),
            text: String::new(),
            stopped: false,
            n_decoded: 0,
            logprobs: params.top_logprobs.map(|_| Vec::new()),
            held: Held::default(),
        })
    }

    /// Chooses and shows one token after `tokens`; a reason when it was the last one.
    fn next(
        &mut self,
        logits: &mut [f32],
        tokens: &[u32],
        on_event: &mut impl FnMut(Event),
    ) -> Result<Option<FinishReason>> {
        if self.max_tokens == 0 {
            return Ok(Some(FinishReason::Length));
        }
        let raw = self.sampler.top().map(|n| (n, logits.to_vec()));
        let id = self.sampler.sample(logits, tokens)?;
        let logprobs = raw.map(|(n, raw)| Logprobs::of(&raw, id, n));
        Ok(self.take(id, logprobs, tokens.len(), on_event))
    }

    /// Has the backend choose the tokens after `last`, where it can: as many at once as the pace says, and as many again
    /// before the first are waited for.
    fn go_ahead<B: Backend>(&self, session: &mut Session<B>, last: u32, pace: &mut Pace) -> Result<()> {
        // Asked first, for a draw takes memory, and not all backends choose.
        if pace.rest > 0 || session.steps_ahead(1, &Draw::BEST) == 0 {
            return Ok(());
        }
        let draw = self.sampler.draw(session.tokens(), last);
        if session.n_ahead() == 0 {
            pace.since = Instant::now();
        }
        loop {
            let wanted = self.max_tokens - self.ids.len() - session.n_ahead();
            let n = session.steps_ahead(wanted.min(pace.steps), &draw);
            if n == 0 {
                return Ok(());
            }
            session.choose(last, &draw, n)?;
        }
    }

    /// Shows tokens that the backend chose after `first` tokens, up to the one that ends the text; the session forgets
    /// those behind it.
    fn take_all<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        first: usize,
        ids: &[u32],
        logprobs: Vec<Logprobs>,
        on_event: &mut impl FnMut(Event),
    ) -> Option<FinishReason> {
        let mut logprobs = logprobs.into_iter();
        for (index, id) in ids.iter().enumerate() {
            self.sampler.accept(*id);
            let reason = self.take(*id, logprobs.next(), first + index, on_event);
            if reason.is_some() {
                session.truncate(first + index);
                return reason;
            }
        }
        None
    }

    /// Shows a token chosen after `n_tokens`; a reason when it was the last one.
    fn take(
        &mut self,
        id: u32,
        logprobs: Option<Logprobs>,
        n_tokens: usize,
        on_event: &mut impl FnMut(Event),
    ) -> Option<FinishReason> {
        self.ids.push(id);
        if self.decoder.is_end(id) || self.stop_token_ids.contains(&id) {
            return Some(FinishReason::Stop);
        }
        if let Some(Logprobs { drawn, top }) = logprobs {
            let of = |id, logprob, top| TokenLogprob { id, bytes: self.decoder.bytes(id), logprob, top };
            let top = top.into_iter().map(|(id, logprob)| of(id, logprob, Vec::new())).collect();
            self.held.push(self.n_decoded, of(id, drawn, top));
        }
        let piece = self.decoder.push(id);
        let text = self.add(&piece);
        let logprobs = self.held.take(self.text.len());
        self.tell(Some(id), text, logprobs, on_event);
        let full = self.ids.len() >= self.max_tokens || n_tokens >= self.n_ctx;
        match (self.stopped, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }

    fn tell(
        &mut self,
        id: Option<u32>,
        text: String,
        logprobs: Vec<TokenLogprob>,
        on_event: &mut impl FnMut(Event),
    ) {
        if let Some(all) = &mut self.logprobs {
            all.extend_from_slice(&logprobs);
        }
        on_event(Event::Text { id, text, logprobs });
    }

    /// Adds decoded text and gives the part of it that is certain.
    fn add(&mut self, piece: &str) -> String {
        self.n_decoded += piece.len();
        let text = match self.stop.push(piece) {
            Matched::No(text) => text,
            Matched::Stop(text) => {
                self.stopped = true;
                text
            }
        };
        self.text.push_str(&text);
        text
    }

    /// No more tokens come: shows what was held back.
    fn let_go(&mut self, on_event: &mut impl FnMut(Event)) {
        if self.stopped {
            return;
        }
        let held = self.decoder.finish();
        let mut text = self.add(&held);
        if !self.stopped {
            let rest = self.stop.finish();
            self.text.push_str(&rest);
            text.push_str(&rest);
        }
        let logprobs = if self.stopped { self.held.take(self.text.len()) } else { self.held.finish() };
        if !text.is_empty() || !logprobs.is_empty() {
            self.tell(None, text, logprobs, on_event);
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::super::test_backend::{HashBackend, StopAfter, expected_logits};
    use super::super::{NoPause, argmax};
    use super::*;
    use crate::error::ErrorCode;

    /// Token `id` is the letter `a + id`; letters come out one token late, as unfinished characters do.
    #[derive(Default)]
    struct Letters {
        held: Option<u32>,
        end: Option<u32>,
    }

    impl TextDecoder for Letters {
        fn push(&mut self, id: u32) -> String {
            self.held.replace(id).map_or(String::new(), letter)
        }
        fn finish(&mut self) -> String {
            self.held.take().map_or(String::new(), letter)
        }
        fn is_end(&self, id: u32) -> bool {
            self.end == Some(id)
        }
        fn bytes(&self, id: u32) -> Vec<u8> {
            letter(id).into_bytes()
        }
    }

    fn letter(id: u32) -> String {
        char::from_u32('a' as u32 + id).unwrap().to_string()
    }

    fn session(n_ctx: usize) -> Session<HashBackend> {
        Session::new(HashBackend::new(n_ctx, 4), HashBackend::shape(n_ctx, 4))
    }

    /// The greedy continuation of `prompt`, computed the slow way.
    fn greedy(prompt: &[u32], n: usize) -> Vec<u32> {
        let mut ids = prompt.to_vec();
        for _ in 0..n {
            ids.push(argmax(&expected_logits(&ids)).unwrap());
        }
        ids.split_off(prompt.len())
    }

    fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
        let mut params = SamplingParams { max_tokens: Some(12), ..SamplingParams::greedy() };
        change(&mut params);
        params
    }

    /// Runs and checks that the events' texts add up to the whole.
    fn run(
        session: &mut Session<HashBackend>,
        params: SamplingParams,
        decoder: Letters,
        pause: &impl Pause,
    ) -> Result<Generated> {
        let mut shown = String::new();
        let on_event = |event| {
            if let Event::Text { text, .. } = event {
                shown += &text;
            }
        };
        let generated = block_on(generate(session, &[1, 2, 3], params, decoder, pause, on_event))?;
        assert_eq!(generated.text, shown);
        Ok(generated)
    }

    fn text_of(ids: &[u32]) -> String {
        ids.iter().map(|id| letter(*id)).collect()
    }

    #[test]
    fn greedy_text_follows_the_logits_up_to_max_tokens() {
        let expected = greedy(&[1, 2, 3], 12);
        let generated = run(&mut session(64), params(|_| ()), Letters::default(), &NoPause).unwrap();
        assert_eq!(generated.ids, expected);
        assert_eq!(generated.text, text_of(&expected));
        assert_eq!(generated.finish_reason, FinishReason::Length);
        // One step for the prompt, one for every token but the last.
        assert_eq!(generated.metrics.counters.steps, 12);
        let none = run(&mut session(64), params(|p| p.max_tokens = Some(0)), Letters::default(), &NoPause);
        assert!(none.unwrap().ids.is_empty());
    }

    /// Wherever the text ends within tokens chosen ahead, it is the same, and the session knows what it holds.
    #[test]
    fn tokens_chosen_ahead_change_nothing() {
        let expected = greedy(&[1, 2, 3], 30);
        let mut ahead = session(40);
        ahead.backend_mut().chooses = 8;
        for n in 1..30 {
            let cases = [
                params(|p| p.max_tokens = Some(n as u32)),
                params(|p| (p.max_tokens, p.stop_token_ids) = (None, vec![expected[n]])),
                params(|p| (p.max_tokens, p.stop) = (None, vec![text_of(&expected[n - 1..=n])])),
            ];
            for params in cases {
                let plain = run(&mut session(40), params.clone(), Letters::default(), &NoPause).unwrap();
                let found = run(&mut ahead, params, Letters::default(), &NoPause).unwrap();
                assert_eq!(
                    (&found.ids, &found.text, found.finish_reason),
                    (&plain.ids, &plain.text, plain.finish_reason),
                    "{n} tokens"
                );
                let held = [&[1, 2, 3], &plain.ids[..plain.ids.len() - 1]].concat();
                assert_eq!(ahead.tokens(), held);
            }
        }
        let (mut plain, penalised) = (session(40), params(|p| p.repetition_penalty = 1.7));
        let drawn =
            |p: &mut SamplingParams| (p.temperature, p.seed, p.frequency_penalty) = (1.5, Some(5), 0.5);
        for params in [penalised, params(drawn)] {
            for uncertain in [None, Some(1), Some(3), Some(7)] {
                ahead.backend_mut().uncertain = uncertain;
                let plain = run(&mut plain, params.clone(), Letters::default(), &NoPause).unwrap();
                let found = run(&mut ahead, params.clone(), Letters::default(), &NoPause).unwrap();
                assert_eq!((found.ids, found.text), (plain.ids, plain.text), "uncertain {uncertain:?}");
                assert_eq!(ahead.n_ahead(), 0);
            }
        }
    }

    /// Those of the model's own logits, whoever draws and whatever is done to the logits before.
    #[test]
    fn log_probabilities_come_with_their_tokens() {
        let mut ahead = session(40);
        (ahead.backend_mut().chooses, ahead.backend_mut().uncertain) = (8, Some(5));
        for (session, n) in [(&mut session(40), 4), (&mut ahead, 4), (&mut session(40), 0)] {
            let params = params(|p| {
                (p.temperature, p.seed, p.frequency_penalty, p.top_k) = (1.5, Some(5), 0.5, 20);
                (p.logit_bias, p.top_logprobs) = (vec![(3, 2.0), (4, 2.0)], Some(n));
            });
            let generated = run(session, params, Letters::default(), &NoPause).unwrap();
            let found = generated.logprobs.unwrap();
            assert_eq!((found.len(), generated.ids.len()), (12, 12));
            let mut tokens = vec![1, 2, 3];
            for (token, id) in found.iter().zip(&generated.ids) {
                let expected = Logprobs::of(&expected_logits(&tokens), *id, n as usize);
                let top: Vec<(u32, f32)> = token.top.iter().map(|top| (top.id, top.logprob)).collect();
                assert_eq!((token.id, token.logprob, top), (*id, expected.drawn, expected.top));
                assert_eq!(token.bytes, letter(*id).into_bytes());
                tokens.push(*id);
            }
        }
        let without = run(&mut session(40), params(|_| ()), Letters::default(), &NoPause).unwrap();
        assert_eq!(without.logprobs, None);
    }

    /// A submit of chosen tokens is as long as [`AHEAD_MS`] at most, but for a single slow one.
    #[test]
    fn few_tokens_are_chosen_at_once_on_a_slow_device() {
        let mut slow = session(64);
        (slow.backend_mut().chooses, slow.backend_mut().slow) = (16, std::time::Duration::from_millis(9));
        let found =
            run(&mut slow, params(|p| p.max_tokens = Some(24)), Letters::default(), &NoPause).unwrap();
        assert_eq!(found.ids, greedy(&[1, 2, 3], 24));
        let largest = slow.backend().largest_begun;
        assert!((1..=4).contains(&largest), "{largest} steps of 9 ms");
    }

    #[test]
    fn a_full_context_ends_the_text() {
        let unlimited = params(|p| p.max_tokens = None);
        let generated = run(&mut session(8), unlimited, Letters::default(), &NoPause).unwrap();
        // Five more positions, and one token whose own position is not needed.
        assert_eq!(generated.ids, greedy(&[1, 2, 3], 6));
        assert_eq!(generated.finish_reason, FinishReason::Length);
    }

    #[test]
    fn end_tokens_and_stop_tokens_end_the_text() {
        let expected = greedy(&[1, 2, 3], 12);
        let at = (0..12).rev().find(|at| !expected[..*at].contains(&expected[*at])).unwrap();
        assert!(at > 2, "the test needs a continuation that is not a loop");
        let decoder = Letters { end: Some(expected[at]), ..Letters::default() };
        let ended = run(&mut session(64), params(|_| ()), decoder, &NoPause).unwrap();
        let extra = params(|p| p.stop_token_ids = vec![expected[at]]);
        let stopped = run(&mut session(64), extra, Letters::default(), &NoPause).unwrap();
        for generated in [ended, stopped] {
            assert_eq!(generated.ids, expected[..=at], "the token itself is counted");
            assert_eq!(generated.text, text_of(&expected[..at]), "and not shown");
            assert_eq!(generated.finish_reason, FinishReason::Stop);
        }
    }

    /// A token that ends the text ends it only where it is allowed.
    #[test]
    fn only_allowed_tokens_come() {
        let expected = greedy(&[1, 2, 3], 12);
        let decoder = || Letters { end: Some(expected[2]), ..Letters::default() };
        let without = params(|p| p.allowed_token_ids = Some(vec![4, 5]));
        let mut ahead = session(64);
        ahead.backend_mut().chooses = 8;
        for session in [&mut session(64), &mut ahead] {
            let generated = run(session, without.clone(), decoder(), &NoPause).unwrap();
            assert_eq!((generated.ids.len(), generated.finish_reason), (12, FinishReason::Length));
            assert!(generated.ids.iter().all(|id| [4, 5].contains(id)), "{:?}", generated.ids);
            let only = params(|p| p.allowed_token_ids = Some(vec![expected[2]]));
            let generated = run(session, only, decoder(), &NoPause).unwrap();
            assert_eq!((generated.ids, generated.finish_reason), (vec![expected[2]], FinishReason::Stop));
        }
    }

    #[test]
    fn a_stop_string_across_tokens_ends_the_text() {
        let text = text_of(&greedy(&[1, 2, 3], 12));
        let stop = text[5..8].to_owned();
        let shown = &text[..text.find(&stop).unwrap()];
        let params = params(|p| p.stop = vec!["~~".into(), stop]);
        let generated = run(&mut session(64), params, Letters::default(), &NoPause).unwrap();
        assert_eq!(generated.text, shown);
        assert_eq!(generated.finish_reason, FinishReason::Stop);
    }

    #[test]
    fn a_stop_string_in_the_held_back_end_is_not_shown() {
        let text = text_of(&greedy(&[1, 2, 3], 12));
        let stop = text[11..].to_owned();
        assert!(!text[..11].contains(&stop));
        let generated = run(&mut session(64), params(|p| p.stop = vec![stop]), Letters::default(), &NoPause);
        assert_eq!(generated.unwrap().text, text[..11]);
    }

    #[test]
    fn aborting_anywhere_leaves_a_usable_session() {
        let expected = greedy(&[1, 2, 3], 12);
        let mut session = session(64);
        for n in 0..6 {
            let generated =
                run(&mut session, params(|_| ()), Letters::default(), &StopAfter::new(n)).unwrap();
            assert_eq!(generated.finish_reason, FinishReason::Abort);
            assert_eq!(generated.ids, expected[..n]);
            assert_eq!(generated.text, text_of(&expected[..n]), "held back text is let go");
        }
        let generated = run(&mut session, params(|_| ()), Letters::default(), &NoPause).unwrap();
        assert_eq!((generated.ids, generated.n_cached), (expected, 2));
    }

    #[test]
    fn wrong_settings_are_refused_before_any_work() {
        let mut session = session(64);
        let wrong = params(|p| p.temperature = f32::NAN);
        let error = run(&mut session, wrong, Letters::default(), &NoPause).unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("temperature")));
        let unknown = params(|p| p.allowed_token_ids = Some(vec![3, 32]));
        let error = run(&mut session, unknown, Letters::default(), &NoPause).unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("allowed_token_ids[1]")));
        assert_eq!(session.backend().counters().steps, 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        let text = |session: &mut Session<HashBackend>, seed| {
            let params = params(|p| (p.temperature, p.seed) = (1.5, Some(seed)));
            run(session, params, Letters::default(), &NoPause).unwrap().text
        };
        let mut session = session(64);
        let first = text(&mut session, 5);
        assert_eq!(text(&mut session, 5), first);
        assert_ne!(text(&mut session, 6), first);
    }
}
