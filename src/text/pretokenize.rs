//! Cutting text into pre-tokens: steps, each of which cuts the pieces of the one before.
//!
//! Principal type: [`PreTokenizer`]. Must not know vocabularies, nor how the patterns are scanned.

use std::borrow::Cow;

use super::bpe::{bytes_of_alphabet, push_alphabet};
use super::chars::char_at;
use super::patterns::{
    BLOOM, DEEPSEEK_EAST_ASIAN, DEEPSEEK_LETTERS, DEEPSEEK_MARKS, DEEPSEEK3, DIGIT, FALCON_MARKS, GPT4O,
    HAN_OR_KANA, KIMI_K2, LAST_SPACES, LINE_BREAK, LINES, LLAMA3, MARKS, NUMBERS, Pattern, QWEN2, QWEN35,
    SEED_CODER, SPACED_LETTERS, SPACED_PUNCTUATION, TEKKEN, THREES_FROM_THE_RIGHT, TRIPLES, UP_TO_THREE,
    is_bert_punctuation, is_number, is_space, known_regex,
};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::tokenizer_json as described;
pub(crate) use crate::formats::tokenizer_json::{Behavior, PrependScheme};

/// How a model cuts text before merging.
#[derive(Clone, Debug, Default)]
pub(crate) struct PreTokenizer {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Split {
        find: Finder,
        behavior: Behavior,
        invert: bool,
    },
    /// A space goes before a piece that has none.
    PrefixSpace,
    /// Later steps see the bytes as GPT-2's alphabet.
    Alphabet,
    Metaspace {
        replacement: char,
        scheme: PrependScheme,
        split: bool,
    },
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(crate) enum Finder {
    Pattern(Pattern),
    Literal(Box<[u8]>),
}

impl Finder {
    fn end_at(&self, text: &[u8], at: usize) -> Option<usize> {
        match self {
            Finder::Pattern(pattern) => pattern.end_at(text, at),
            Finder::Literal(literal) => text[at..].starts_with(literal).then(|| at + literal.len()),
        }
    }
}

/// A step that cuts out the matches of a pattern.
const fn isolate(pattern: Pattern) -> Step {
    Step::Split { find: Finder::Pattern(pattern), behavior: Behavior::Isolated, invert: false }
}

const fn run(of: fn(char) -> bool, behavior: Behavior) -> Step {
    let find = Finder::Pattern(Pattern::Run { of, longest: 1 });
    Step::Split { find, behavior, invert: false }
}

const fn bert_steps() -> [Step; 2] {
    [run(is_space, Behavior::Removed), run(is_bert_punctuation, Behavior::Isolated)]
}

impl PreTokenizer {
    /// A pre-tokenizer that cuts out the matches of one pattern after the other.
    pub(crate) fn isolating(patterns: &[Pattern]) -> PreTokenizer {
        PreTokenizer { steps: patterns.iter().map(|pattern| isolate(*pattern)).collect() }
    }

    /// BERT's: at white space, which is removed, and punctuation.
    pub(crate) fn bert() -> PreTokenizer {
        PreTokenizer { steps: bert_steps().into() }
    }

    /// The pre-tokenizer of a tokenizer.json, and whether its pieces are bytes in GPT-2's alphabet.
    pub(crate) fn from_description(
        description: Option<&described::PreTokenizer>,
    ) -> Result<(PreTokenizer, bool)> {
        let mut steps = Vec::new();
        if let Some(description) = description {
            add_steps(description, "pre_tokenizer", &mut steps)?;
        }
        let byte_level = steps.iter().any(|step| matches!(step, Step::Alphabet));
        // Nothing sees the alphabet after the last step: the vocabulary is kept in bytes.
        if matches!(steps.last(), Some(Step::Alphabet)) {
            steps.pop();
        }
        Ok((PreTokenizer { steps }, byte_level))
    }

    /// Calls `emit` with every pre-token of `text`, in order. `first` tells that nothing stands before `text`.
    pub(crate) fn split(&self, text: &[u8], first: bool, emit: &mut dyn FnMut(&[u8])) {
        split_from(&self.steps, text, first, emit);
    }
}

/// Runs the rest of the steps on one piece; as deep as there are steps.
fn split_from(steps: &[Step], text: &[u8], first: bool, emit: &mut dyn FnMut(&[u8])) {
    if text.is_empty() {
        return;
    }
    let Some((step, rest)) = steps.split_first() else {
        emit(text);
        return;
    };
    match step {
        Step::Split { find, behavior, invert } => {
            let mut at_start = first;
            let mut next = |piece: &[u8]| {
                split_from(rest, piece, at_start, emit);
                at_start = false;
            };
            cut(text, find, *behavior, *invert, &mut next);
        }
        Step::PrefixSpace => match text.first() {
            Some(b' ') => split_from(rest, text, first, emit),
            _ => split_from(rest, &[b" ", text].concat(), first, emit),
        },
        Step::Alphabet => {
            let mut spelled = String::with_capacity(text.len() * 2);
            push_alphabet(text, &mut spelled);
            let mut bytes = Vec::new();
            let mut back = |piece: &[u8]| {
                bytes.clear();
                bytes_of_alphabet(piece, &mut bytes);
                emit(&bytes);
            };
            split_from(rest, spelled.as_bytes(), first, &mut back);
        }
        Step::Metaspace { replacement, scheme, split } => {
            let text = metaspace(text, *replacement, *scheme, first);
            if *split {
                let find = Finder::Literal(replacement.to_string().into_bytes().into());
                let mut at_start = first;
                let mut next = |piece: &[u8]| {
                    split_from(rest, piece, at_start, emit);
                    at_start = false;
                };
                cut(&text, &find, Behavior::MergedWithNext, false, &mut next);
            } else {
                split_from(rest, &text, first, emit);
            }
        }
    }
}

/// Writes spaces as `replacement` and puts one in front where the scheme wants it.
fn metaspace(text: &[u8], replacement: char, scheme: PrependScheme, first: bool) -> Vec<u8> {
    let mut buffer = [0; 4];
    let visible = replacement.encode_utf8(&mut buffer).as_bytes();
    let wanted = match scheme {
        PrependScheme::Always => true,
        PrependScheme::First => first,
        PrependScheme::Never => false,
    };
    let mut out = Vec::with_capacity(text.len() * 3 / 2 + 4);
    if wanted && !text.starts_with(visible) && text.first() != Some(&b' ') {
        out.extend_from_slice(visible);
    }
    for byte in text {
        match byte {
            b' ' => out.extend_from_slice(visible),
            _ => out.push(*byte),
        }
    }
    out
}

/// Cuts `text` into matches and what is between them, joined or left out as `behavior` says.
fn cut(text: &[u8], find: &Finder, behavior: Behavior, invert: bool, emit: &mut dyn FnMut(&[u8])) {
    // The piece that may still grow: where it began, and whether its last part was a match.
    let mut open: Option<(usize, bool)> = None;
    let mut segment = |start: usize, matched: bool, emit: &mut dyn FnMut(&[u8])| {
        let joins = open.is_some_and(|(_, last)| match behavior {
            Behavior::Removed | Behavior::Isolated => false,
            Behavior::Contiguous => matched == last,
            Behavior::MergedWithPrevious => matched && !last,
            Behavior::MergedWithNext => last && !matched,
        });
        let from = match open {
            Some((from, _)) if joins => from,
            Some((from, last)) => {
                if !(last && behavior == Behavior::Removed) {
                    emit(&text[from..start]);
                }
                start
            }
            None => start,
        };
        open = Some((from, matched));
    };
    let mut at = 0;
    let mut gap = 0;
    while at < text.len() {
        let Some(end) = find.end_at(text, at).filter(|end| *end > at) else {
            at += char_at(text, at).map_or(1, |(_, len)| len);
            continue;
        };
        if gap < at {
            segment(gap, invert, emit);
        }
        segment(at, !invert, emit);
        at = end;
        gap = end;
    }
    if gap < at {
        segment(gap, invert, emit);
    }
    if let Some((from, last)) = open
        && !(last && behavior == Behavior::Removed)
    {
        emit(&text[from..]);
    }
}

/// `text` with every match replaced.
pub(crate) fn replace<'t>(text: &'t [u8], find: &Finder, with: &[u8]) -> Cow<'t, [u8]> {
    let mut out = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        match find.end_at(text, at).filter(|end| *end > at) {
            Some(end) => {
                out.extend_from_slice(&text[copied..at]);
                out.extend_from_slice(with);
                at = end;
                copied = end;
            }
            None => at += char_at(text, at).map_or(1, |(_, len)| len),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

fn add_steps(description: &described::PreTokenizer, path: &str, steps: &mut Vec<Step>) -> Result<()> {
    use described::PreTokenizer as D;
    match description {
        D::Sequence(list) => {
            for (index, step) in list.iter().enumerate() {
                add_steps(step, &format!("{path}.pretokenizers[{index}]"), steps)?;
            }
        }
        D::ByteLevel { add_prefix_space, use_regex } => {
            if *add_prefix_space {
                steps.push(Step::PrefixSpace);
            }
            if *use_regex {
                steps.push(isolate(Pattern::Gpt2));
            }
            steps.push(Step::Alphabet);
        }
        D::Split { pattern, behavior, invert } => {
            let find = match pattern {
                described::Pattern::String(text) if text.is_empty() => return Ok(()),
                described::Pattern::String(text) => Finder::Literal(text.as_bytes().into()),
                described::Pattern::Regex(regex) => Finder::Pattern(regex_pattern(regex, path)?),
            };
            steps.push(Step::Split { find, behavior: *behavior, invert: *invert });
        }
        D::Digits { individual: true } => steps.push(run(is_number, Behavior::Isolated)),
        D::Digits { individual: false } => steps.push(run(is_number, Behavior::Contiguous)),
        D::Metaspace { replacement, scheme, split } => {
            steps.push(Step::Metaspace { replacement: *replacement, scheme: *scheme, split: *split });
        }
        D::Bert => steps.extend(bert_steps()),
        D::Whitespace => {
            let find = Finder::Pattern(regex_pattern(r"\w+|[^\w\s]+", path)?);
            steps.push(Step::Split { find, behavior: Behavior::Removed, invert: true });
        }
        D::WhitespaceSplit => steps.push(run(is_space, Behavior::Removed)),
        D::Punctuation(behavior) => steps.push(run(is_bert_punctuation, *behavior)),
    }
    Ok(())
}

/// The scanner of a regex, however its line breaks are spelled.
pub(crate) fn regex_pattern(regex: &str, path: &str) -> Result<Pattern> {
    let canonical = regex.replace('\r', r"\r").replace('\n', r"\n");
    known_regex(&canonical).ok_or_else(|| {
        let message = format!(
            "the regular expression {regex:?} is not among the ones that Lamplight has scanners for; please report it"
        );
        Error::new(ErrorCode::UnsupportedTokenizer, message).at(format!("{path}.pattern"))
    })
}

/// What a value of `tokenizer.ggml.pre` means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreKind {
    /// Cut out one after the other.
    pub(crate) patterns: &'static [Pattern],
    /// A pre-token that is a token is taken whole.
    pub(crate) ignore_merges: bool,
    /// The beginning-of-text token is added when the file does not say.
    pub(crate) add_bos: bool,
    /// The model was trained on text in Unicode's form C.
    pub(crate) nfc: bool,
}

/// Known values of `tokenizer.ggml.pre`. GGUF has no key for normalisation; it follows from the family, and the
/// reference encodings of Qwen 2 and StableLM 2 have it (llama.cpp leaves it out).
#[rustfmt::skip]
const KINDS: &[(PreKind, &[&str])] = &[
    (kind(&[MARKS, Pattern::Gpt2, NUMBERS, TRIPLES]), &["default"]),
    (kind(&[Pattern::Gpt2]), &[
        "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v2-code", "jina-v1-en", "roberta-bpe",
        "mpt", "olmo", "jais", "gigachat", "a.x-4.0", "mellum", "modern-bert", "trillion", "granite-docling", "exaone4",
    ]),
    (kind(&[DIGIT, Pattern::Gpt2]), &[
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
    ]),
    (PreKind { ignore_merges: true, add_bos: true, ..kind(&[LLAMA3]) }, &[
        "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    ]),
    (kind(&[LLAMA3]), &["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"]),
    (PreKind { nfc: true, ..kind(&[QWEN2]) }, &["qwen2", "stablelm2"]),
    (PreKind { nfc: true, ..kind(&[QWEN35]) }, &["qwen35"]),
    (kind(&[QWEN2]), &[
        "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2", "bailingmoe",
        "bailingmoe2", "llada-moe",
    ]),
    (PreKind { ignore_merges: true, add_bos: true, ..kind(&[TEKKEN]) }, &["tekken"]),
    (kind(&[GPT4O]), &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"]),
    (kind(&[KIMI_K2]), &["kimi-k2"]),
    (kind(&[SEED_CODER]), &["seed-coder"]),
    (kind(&[LINE_BREAK, DEEPSEEK_LETTERS, DEEPSEEK_MARKS, LAST_SPACES, DEEPSEEK_EAST_ASIAN, NUMBERS]), &["deepseek-llm"]),
    (kind(&[LINE_BREAK, SPACED_LETTERS, SPACED_PUNCTUATION, DEEPSEEK_EAST_ASIAN, DIGIT]), &["deepseek-coder"]),
    (kind(&[UP_TO_THREE, HAN_OR_KANA, DEEPSEEK3]), &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"]),
    (kind(&[FALCON_MARKS, Pattern::Gpt2, TRIPLES]), &["falcon"]),
    (kind(&[BLOOM]), &["bloom", "poro-chat", "gpt3-finnish"]),
    (kind(&[BLOOM, DIGIT]), &["viking"]),
    (kind(&[NUMBERS, THREES_FROM_THE_RIGHT]), &["superbpe"]),
];

/// How gemma4's vocabulary cuts text: at line breaks only.
pub(crate) const GEMMA4: &[Pattern] = &[LINES];

const fn kind(patterns: &'static [Pattern]) -> PreKind {
    PreKind { patterns, ignore_merges: false, add_bos: false, nfc: false }
}

/// Looks a `tokenizer.ggml.pre` up; absent means "default".
pub(crate) fn pre_kind(name: Option<&str>) -> Result<PreKind> {
    let name = name.unwrap_or("default");
    if let Some((kind, _)) = KINDS.iter().find(|(_, names)| names.contains(&name)) {
        return Ok(*kind);
    }
    let known: Vec<&str> = KINDS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let message =
        format!("pre-tokenizer \"{name}\" is not supported; the known ones are {}", known.join(", "));
    Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at("tokenizer.ggml.pre"))
}
