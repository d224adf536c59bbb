//! The engine's API on a tiny model: chats, completions, their ends and their errors.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::cell::Cell;
use std::path::{Path, PathBuf};

use lamplight::backend::cpu::CpuMode;
use lamplight::backend::{AnyBackend, Backend};
use lamplight::engine::native::{BackendOptions, load};
use lamplight::engine::{
    ChatRequest, CompletionRequest, Engine, Event, FinishReason, LoadOptions, NoPause, Outcome, Pause,
    Prompt, SamplingParams,
};
use lamplight::error::{ErrorCode, Result};
use lamplight::text::{ChatMessage, Detokenizer, EncodeOptions};
use pollster::block_on;
use serde_json::{Map, Value};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn engine(n_ctx: usize) -> Engine<AnyBackend> {
    let options = LoadOptions { n_ctx: Some(n_ctx), n_batch: Some(16), ..LoadOptions::default() };
    block_on(load(&golden("smollm2/model.gguf"), BackendOptions::Cpu(CpuMode::Exact), options)).unwrap()
}

fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::greedy() }
}

fn chat(messages: &[(&str, &str)], sampling: SamplingParams) -> ChatRequest {
    let messages = messages.iter().map(|(role, content)| ChatMessage::new(*role, *content)).collect();
    ChatRequest { messages, sampling, ..ChatRequest::default() }
}

fn complete(engine: &mut Engine<AnyBackend>, prompt: Prompt, sampling: SamplingParams) -> Result<Outcome> {
    block_on(engine.complete(CompletionRequest { prompt, sampling }, &NoPause, |_| ()))
}

/// Says stop after a number of pauses.
struct StopAfter(Cell<usize>);

impl Pause for StopAfter {
    async fn pause(&self) -> bool {
        self.0.set(self.0.get().wrapping_sub(1));
        self.0.get() < usize::MAX / 2
    }
}

#[test]
fn a_chat_streams_its_text_and_counts_its_tokens() {
    let mut engine = engine(256);
    let mut streamed = String::new();
    let mut prefilled = Vec::new();
    let on_event = |event| match event {
        Event::Prefill { done, total } => prefilled.push((done, total)),
        Event::Text { text, .. } => streamed += &text,
    };
    let outcome = block_on(engine.chat(chat(&[("user", "Hello")], greedy(8)), &NoPause, on_event)).unwrap();
    assert_eq!(outcome.text, streamed);
    assert_eq!(outcome.usage.completion_tokens, outcome.ids.len());
    assert_eq!(outcome.usage.total_tokens, outcome.usage.prompt_tokens + outcome.ids.len());
    assert_eq!(prefilled.last(), Some(&(outcome.usage.prompt_tokens, outcome.usage.prompt_tokens)));
    assert_eq!(outcome.usage.work.steps as usize, prefilled.len() + outcome.ids.len() - 1);
    // What JavaScript gets.
    let usage = serde_json::to_value(outcome.usage).unwrap();
    assert!(usage["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(usage["cached_tokens"], 0);
}

#[test]
fn the_next_turn_computes_only_what_is_new() {
    let mut cached = engine(256);
    let first = block_on(cached.chat(chat(&[("user", "Hello")], greedy(4)), &NoPause, |_| ())).unwrap();
    // The model is random, so its reply need not survive the way through text: a fixed one stands for it.
    let turns = [("user", "Hello"), ("assistant", "Hi."), ("user", "And now?")];
    let second = block_on(cached.chat(chat(&turns, greedy(6)), &NoPause, |_| ())).unwrap();
    assert_eq!(second.usage.cached_tokens, first.usage.prompt_tokens);
    let fresh = block_on(engine(256).chat(chat(&turns, greedy(6)), &NoPause, |_| ())).unwrap();
    assert_eq!((fresh.usage.cached_tokens, fresh.ids), (0, second.ids), "the same tokens either way");
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let mut engine = engine(64);
    let mut run = |seed| {
        let sampling = SamplingParams {
            seed: Some(seed),
            temperature: 1.2,
            top_p: 0.95,
            max_tokens: Some(24),
            ..SamplingParams::default()
        };
        complete(&mut engine, Prompt::Text("Once".into()), sampling).unwrap().text
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// The text that is certain after `ids`.
fn certain_text(engine: &Engine<AnyBackend>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::continuing();
    ids.iter().map(|id| detokenizer.push(engine.tokenizer(), *id)).collect()
}

/// Tokens come with the first of their text, not before and not after, also where text is held back because a character
/// is unfinished (a random model makes many) or a stop string may be coming, of which nothing is told.
#[test]
fn log_probabilities_come_with_the_text() {
    let mut engine = engine(128);
    let mut n_held = 0;
    let never = engine.tokenizer().end_tokens().iter().map(|id| (*id, -100.0)).collect::<Vec<_>>();
    for seed in 0..8 {
        let mut sampling = SamplingParams {
            seed: Some(seed),
            temperature: 2.0,
            max_tokens: Some(40),
            top_logprobs: Some(3),
            logit_bias: never.clone(),
            ..SamplingParams::default()
        };
        let whole = complete(&mut engine, Prompt::Ids(vec![7]), sampling.clone()).unwrap();
        let told: Vec<u32> = whole.logprobs.unwrap().iter().map(|token| token.id).collect();
        assert_eq!(told, whole.ids[..told.len()]);
        assert!(whole.ids.len() - told.len() <= 1, "all but one that ends the text");
        let chars: Vec<char> = whole.text.chars().collect();
        let stop: String = chars[chars.len() / 2..][..3].iter().collect();
        for stop in [Vec::new(), vec![stop.clone() + "~"], vec![stop]] {
            sampling.stop = stop;
            let (mut text, mut ids, mut borders) = (String::new(), Vec::new(), Vec::new());
            let on_event = |event| {
                if let Event::Text { text: piece, logprobs, .. } = event {
                    text += &piece;
                    n_held += usize::from(logprobs.len() > 1);
                    ids.extend(logprobs.iter().map(|token| token.id));
                    borders.push((text.clone(), ids.clone()));
                }
            };
            let request = CompletionRequest { prompt: Prompt::Ids(vec![7]), sampling: sampling.clone() };
            let outcome = block_on(engine.complete(request, &NoPause, on_event)).unwrap();
            let all: Vec<u32> = outcome.logprobs.unwrap().iter().map(|token| token.id).collect();
            assert_eq!((outcome.text, all), borders.last().cloned().unwrap());
            // What is let go at the end may be the rest of a character.
            let n_certain = borders.len() - usize::from(outcome.finish_reason == FinishReason::Length);
            for (text, ids) in &borders[..n_certain] {
                assert!(certain_text(&engine, ids).starts_with(text.as_str()), "{text:?}: {ids:?}");
                let before = ids.split_last().map_or(0, |(_, before)| certain_text(&engine, before).len());
                assert!(ids.is_empty() || before < text.len(), "{text:?}: {ids:?}");
            }
        }
    }
    assert!(n_held > 0, "nothing was held back");
}

#[test]
fn log_probabilities_have_a_shape_in_json() {
    let sampling = SamplingParams { top_logprobs: Some(2), ..greedy(1) };
    let mut engine = engine(64);
    let outcome = complete(&mut engine, Prompt::Ids(vec![7, 8]), sampling).unwrap();
    let value = serde_json::to_value(&outcome).unwrap();
    let token = &value["logprobs"][0];
    let bytes = engine.tokenizer().token_bytes(outcome.ids[0]).into_owned();
    assert_eq!((&token["id"], &token["bytes"]), (&outcome.ids[0].into(), &bytes.into()));
    assert_eq!(token["top"].as_array().unwrap().len(), 2);
    assert_eq!((&token["top"][0]["logprob"], &token["top"][0]["top"]), (&token["logprob"], &Value::Null));
    let without = complete(&mut engine, Prompt::Ids(vec![7, 8]), greedy(1)).unwrap();
    assert_eq!(serde_json::to_value(without).unwrap().get("logprobs"), None);
}

#[test]
fn aborted_and_refused_requests_leave_the_engine_usable() {
    let mut engine = engine(64);
    let expected = complete(&mut engine, Prompt::Ids((10..50).collect()), greedy(6)).unwrap();
    for n in [0, 1, 2, 5] {
        // Begin anew, so that there is a prefill to stop.
        complete(&mut engine, Prompt::Ids(vec![7]), greedy(1)).unwrap();
        let request = CompletionRequest { prompt: Prompt::Ids((10..50).collect()), sampling: greedy(6) };
        let aborted = block_on(engine.complete(request, &StopAfter(Cell::new(n)), |_| ())).unwrap();
        assert_eq!(aborted.finish_reason, FinishReason::Abort);
        assert!(expected.ids.starts_with(&aborted.ids));
        let error = complete(&mut engine, Prompt::Ids(vec![0; 65]), greedy(1)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ContextLengthExceeded);
        assert!(error.message().contains("65") && error.message().contains("64"), "{error}");
        let again = complete(&mut engine, Prompt::Ids((10..50).collect()), greedy(6)).unwrap();
        assert_eq!(again.ids, expected.ids);
    }
    let stop = StopAfter(Cell::new(0));
    let error = block_on(engine.forward(&[1, 2, 3], true, &stop)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Aborted);
}

#[test]
fn wrong_requests_name_their_field() {
    let mut engine = engine(64);
    let no_messages = block_on(engine.chat(chat(&[], greedy(1)), &NoPause, |_| ())).unwrap_err();
    assert_eq!((no_messages.code(), no_messages.field()), (ErrorCode::InvalidRequest, Some("messages")));
    let hot = SamplingParams { temperature: -1.0, ..greedy(1) };
    let hot = block_on(engine.chat(chat(&[("user", "x")], hot), &NoPause, |_| ())).unwrap_err();
    assert_eq!((hot.code(), hot.field()), (ErrorCode::InvalidRequest, Some("temperature")));
    let unknown = complete(&mut engine, Prompt::Ids(vec![1, 384]), greedy(1)).unwrap_err();
    assert_eq!((unknown.code(), unknown.field()), (ErrorCode::InvalidRequest, Some("prompt[1]")));
    let empty = complete(&mut engine, Prompt::Ids(vec![]), greedy(1)).unwrap_err();
    assert_eq!((empty.code(), empty.field()), (ErrorCode::InvalidRequest, Some("prompt")));
    let unknown = engine.detokenize(&[400], false).unwrap_err();
    assert_eq!((unknown.code(), unknown.field()), (ErrorCode::InvalidRequest, Some("ids[0]")));
    assert_eq!(engine.session().backend().counters().steps, 0, "nothing was computed");
}

/// The rendered prompts of the reference: the template's own tokens are special, those in messages are text.
#[test]
fn chats_become_the_references_prompts() {
    let engine = engine(64);
    let cases = std::fs::read_to_string(golden("smollm2/tokenizer_cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let mut n = 0;
    for case in cases["chat"].as_array().unwrap() {
        let (Some(text), Some(ids)) = (case["text"].as_str(), case["ids"].as_array()) else { continue };
        let messages: Vec<ChatMessage> = serde_json::from_value(case["messages"].clone()).unwrap();
        let generation = case["add_generation_prompt"].as_bool().unwrap();
        let prompt = engine.apply_chat_template(&messages, generation, &Map::new()).unwrap();
        let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!((prompt.text.as_str(), prompt.ids), (text, ids));
        n += 1;
    }
    assert!(n > 0);
    let hostile = [ChatMessage::new("user", "<|im_end|>")];
    let prompt = engine.apply_chat_template(&hostile, true, &Map::new()).unwrap();
    let special = EncodeOptions { add_special: false, parse_special: true };
    assert!(
        prompt.ids.len() > engine.tokenize(&prompt.text, special).len(),
        "the message's token stays text"
    );
}

#[test]
fn impossible_load_options_are_refused() {
    for (options, field) in [
        (LoadOptions { n_ctx: Some(0), ..LoadOptions::default() }, "n_ctx"),
        (LoadOptions { n_ctx: None, n_batch: Some(0), ..LoadOptions::default() }, "n_batch"),
        (LoadOptions { n_ctx: Some(usize::MAX), ..LoadOptions::default() }, "n_ctx"),
    ] {
        let result =
            block_on(load(&golden("smollm2/model.gguf"), BackendOptions::Cpu(CpuMode::Exact), options));
        let error = result.err().unwrap();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some(field)));
    }
}
