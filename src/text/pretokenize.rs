//! Cutting text into pre-tokens, by hand: each regex of a known family is one forward pass.
//!
//! Principal type: [`PreTokenizer`]. The regexes stand in the comments; `tests/tokenizer_split.rs` holds the scanners
//! equal to them. Must not know vocabularies.

use super::chars::{CharClass, char_at, class_of, is_punctuation};
use crate::error::{Error, ErrorCode, Result};

/// How a model cuts text before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreTokenizer {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Every `\p{N}` on its own, then GPT-2 on what is between them (StarCoder, SmolLM).
    DigitsThenGpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|`
    /// `\s+(?!\S)|\s+`, with numbers of up to `digits` digits: 3 for Llama 3, 1 for Qwen 2.
    Llama3 { digits: usize },
    /// What files without `tokenizer.ggml.pre` get: `[\p{P}$+<=>^~|]+`, then GPT-2, then `\p{N}+`, then
    /// `[0-9][0-9][0-9]`, each on the pieces of the one before.
    Default,
}

/// What a value of `tokenizer.ggml.pre` means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreKind {
    pub(crate) pre: PreTokenizer,
    /// A pre-token that is a token is taken whole.
    pub(crate) ignore_merges: bool,
    /// The beginning-of-text token is added when the file does not say.
    pub(crate) add_bos: bool,
    /// The model was trained on text in Unicode's form C.
    pub(crate) nfc: bool,
}

const LLAMA3: PreTokenizer = PreTokenizer::Llama3 { digits: 3 };
const QWEN2: PreTokenizer = PreTokenizer::Llama3 { digits: 1 };

/// Known values of `tokenizer.ggml.pre`. GGUF has no key for normalisation; it follows from the family, and the
/// reference encodings of Qwen 2 and StableLM 2 have it (llama.cpp leaves it out).
#[rustfmt::skip]
const KNOWN: &[(PreKind, &[&str])] = &[
    (kind(PreTokenizer::Default), &["default"]),
    (kind(PreTokenizer::Gpt2), &[
        "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe", "mpt", "olmo",
        "jais", "gigachat", "a.x-4.0", "mellum", "modern-bert", "trillion", "granite-docling",
    ]),
    (kind(PreTokenizer::DigitsThenGpt2), &[
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
    ]),
    (PreKind { ignore_merges: true, add_bos: true, ..kind(LLAMA3) }, &[
        "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    ]),
    (kind(LLAMA3), &["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"]),
    (PreKind { nfc: true, ..kind(QWEN2) }, &["qwen2", "stablelm2"]),
    (kind(QWEN2), &["deepseek-r1-qwen", "kormo", "megrez", "hunyuan", "hunyuan-dense", "solar-open"]),
];

const fn kind(pre: PreTokenizer) -> PreKind {
    PreKind { pre, ignore_merges: false, add_bos: false, nfc: false }
}

/// Looks a `tokenizer.ggml.pre` up; absent means "default".
pub(crate) fn pre_kind(name: Option<&str>) -> Result<PreKind> {
    let name = name.unwrap_or("default");
    if let Some((kind, _)) = KNOWN.iter().find(|(_, names)| names.contains(&name)) {
        return Ok(*kind);
    }
    let known: Vec<&str> = KNOWN.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let message =
        format!("pre-tokenizer \"{name}\" is not supported; the known ones are {}", known.join(", "));
    Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at("tokenizer.ggml.pre"))
}

impl PreTokenizer {
    /// Calls `emit` with every pre-token of `text`, in order; together they are the text.
    pub(crate) fn split<'t>(self, text: &'t [u8], emit: &mut dyn FnMut(&'t [u8])) {
        match self {
            PreTokenizer::Gpt2 => scan(text, emit, gpt2_end),
            PreTokenizer::DigitsThenGpt2 => {
                let mut inner = |piece| scan(piece, emit, gpt2_end);
                split_out(text, &mut inner, |c| class_of(c) == CharClass::Number, 1);
            }
            PreTokenizer::Llama3 { digits } => scan(text, emit, |text, at| llama3_end(text, at, digits)),
            PreTokenizer::Default => split_default(text, emit),
        }
    }
}

/// Cuts `text` at the ends that `end` finds; `end` always moves forward.
fn scan<'t>(text: &'t [u8], emit: &mut dyn FnMut(&'t [u8]), end: impl Fn(&[u8], usize) -> usize) {
    let mut at = 0;
    while at < text.len() {
        let next = end(text, at);
        emit(&text[at..next]);
        at = next;
    }
}

/// Cuts out runs of at most `longest` characters that are `wanted`, and emits the rest between them whole.
fn split_out<'t>(
    text: &'t [u8],
    emit: &mut dyn FnMut(&'t [u8]),
    wanted: impl Fn(char) -> bool,
    longest: usize,
) {
    let mut rest = 0;
    let mut at = 0;
    while let Some((c, len)) = char_at(text, at) {
        if !wanted(c) {
            at += len;
            continue;
        }
        if rest < at {
            emit(&text[rest..at]);
        }
        rest = run_end(text, at, &wanted, longest);
        emit(&text[at..rest]);
        at = rest;
    }
    if rest < text.len() {
        emit(&text[rest..]);
    }
}

/// End of the run of at most `longest` characters from `at` that are `wanted`.
fn run_end(text: &[u8], mut at: usize, wanted: impl Fn(char) -> bool, longest: usize) -> usize {
    for _ in 0..longest {
        match char_at(text, at) {
            Some((c, len)) if wanted(c) => at += len,
            _ => break,
        }
    }
    at
}

fn class_run_end(text: &[u8], at: usize, class: CharClass) -> usize {
    run_end(text, at, |c| class_of(c) == class, usize::MAX)
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at `at`; None when there is no contraction. When folding case, ſ (U+017F) is an s too,
/// because Unicode folds it so and the regex engines follow.
fn contraction_end(text: &[u8], at: usize, fold: bool) -> Option<usize> {
    let tail = text[at..].strip_prefix(b"'")?;
    let lower = |index: usize| -> Option<u8> {
        let byte = *tail.get(index)?;
        Some(if fold { byte.to_ascii_lowercase() } else { byte })
    };
    let second = lower(1);
    let len = match lower(0)? {
        b's' | b't' | b'm' | b'd' => 1,
        b'r' | b'v' if second == Some(b'e') => 2,
        b'l' if second == Some(b'l') => 2,
        _ if fold && tail.starts_with("ſ".as_bytes()) => "ſ".len(),
        _ => return None,
    };
    Some(at + 1 + len)
}

/// `\s+(?!\S)|\s+` at a whitespace character: the run without its last character when text follows it (that one may
/// belong to the next word), and the whole run at the end of the text.
fn space_end(text: &[u8], at: usize) -> usize {
    let mut end = at;
    let mut last = at;
    while let Some((c, len)) = char_at(text, end) {
        if class_of(c) != CharClass::Space {
            break;
        }
        last = end;
        end += len;
    }
    if end == text.len() || last == at { end } else { last }
}

/// End of GPT-2's pre-token at `at`.
fn gpt2_end(text: &[u8], at: usize) -> usize {
    if let Some(end) = contraction_end(text, at, false) {
        return end;
    }
    let word = if text[at] == b' ' { at + 1 } else { at };
    if let Some((c, _)) = char_at(text, word) {
        let class = class_of(c);
        if class != CharClass::Space {
            return class_run_end(text, word, class);
        }
    }
    space_end(text, at)
}

/// End of Llama 3's (or Qwen 2's) pre-token at `at`.
fn llama3_end(text: &[u8], at: usize, digits: usize) -> usize {
    if let Some(end) = contraction_end(text, at, true) {
        return end;
    }
    let Some((c, len)) = char_at(text, at) else {
        return text.len();
    };
    let class = class_of(c);
    match class {
        CharClass::Letter => return class_run_end(text, at, class),
        CharClass::Number => return run_end(text, at, |c| class_of(c) == class, digits),
        CharClass::Space | CharClass::Other => {}
    }
    let newline = |c: char| c == '\r' || c == '\n';
    let next = char_at(text, at + len).map(|(c, _)| class_of(c));
    // [^\r\n\p{L}\p{N}]?\p{L}+
    if next == Some(CharClass::Letter) && !newline(c) {
        return class_run_end(text, at + len, CharClass::Letter);
    }
    // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
    let marks = if c == ' ' && next == Some(CharClass::Other) { at + 1 } else { at };
    let end = class_run_end(text, marks, CharClass::Other);
    if end > marks {
        return run_end(text, end, newline, usize::MAX);
    }
    newline_end(text, at).unwrap_or_else(|| space_end(text, at))
}

/// `\s*[\r\n]+`: up to the last line break of the whitespace run at `at`.
fn newline_end(text: &[u8], at: usize) -> Option<usize> {
    let run = class_run_end(text, at, CharClass::Space);
    let last = text[at..run].iter().rposition(|byte| matches!(byte, b'\r' | b'\n'))?;
    Some(at + last + 1)
}

/// The four steps of [`PreTokenizer::Default`].
fn split_default<'t>(text: &'t [u8], emit: &mut dyn FnMut(&'t [u8])) {
    let mark = |c: char| is_punctuation(c) || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|');
    let number = |c: char| class_of(c) == CharClass::Number;
    let mut triples = |piece: &'t [u8]| {
        let mut rest = piece;
        while let Some(at) = rest.windows(3).position(|window| window.iter().all(u8::is_ascii_digit)) {
            if at > 0 {
                emit(&rest[..at]);
            }
            emit(&rest[at..at + 3]);
            rest = &rest[at + 3..];
        }
        if !rest.is_empty() {
            emit(rest);
        }
    };
    let mut numbers = |piece: &'t [u8]| split_out(piece, &mut triples, number, usize::MAX);
    let mut words = |piece: &'t [u8]| scan(piece, &mut numbers, gpt2_end);
    split_out(text, &mut words, mark, usize::MAX);
}
