//! Tokenizers from Hugging Face's `tokenizer.json` and the files beside it, and from `rwkv_vocab.txt`.
//!
//! Principal functions: [`Tokenizer::from_hf`], [`Tokenizer::from_rwkv_vocab`]. Must not know models.

use serde_json::Value as Json;

use super::bpe::{Bpe, Initial, bytes_of_alphabet, find_side};
use super::decode::Decoding;
use super::names::{end_tokens, is_structural};
use super::normalize::Normalizer;
use super::pretokenize::PreTokenizer;
use super::specials::{Special, Specials};
use super::spm::{byte_ids, byte_of_token};
use super::tokenizer::{Model, Tokenizer};
use super::unigram::Unigram;
use super::vocab::{MAX_TOKENS, TokenKind, Vocab};
use super::wordpiece::WordPiece;
use super::world::{World, read_line};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::StringArray;
use crate::formats::tokenizer_json::{
    AddedToken, BpeModel, Model as ModelJson, PostProcessor, TokenizerJson,
};

/// Longest added token accepted, in bytes: every position of a text is followed this far at most.
const MAX_ADDED: usize = 1024;

impl Tokenizer {
    /// Reads a `tokenizer.json`; `config` is the `tokenizer_config.json` beside it, which names the tokens that begin
    /// and end a text. The end tokens of a `generation_config.json` are added by [`Tokenizer::with_generation_config`].
    ///
    /// # Errors
    /// `malformed`, `invalid-value` and `limit-exceeded` with the field at fault; `unsupported-tokenizer` for parts
    /// that are not known, quoted.
    pub fn from_hf(tokenizer_json: &[u8], config: Option<&Json>) -> Result<Tokenizer> {
        let mut file = TokenizerJson::parse(tokenizer_json)?;
        let (pre, byte_level) = PreTokenizer::from_description(file.pre_tokenizer.as_ref())?;
        let normalizer = Normalizer::from_description(file.normalizer.as_ref())?;
        let decoding = Decoding::from_description(file.decoder.as_ref())?;
        let vocab = build_vocab(&file, byte_level)?;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        if let Some(post) = &file.post_processor {
            add_around(post, &mut before, &mut after);
        }
        let (specials, normalized_specials) = build_specials(&file.added_tokens, &normalizer)?;
        let scores = file.vocabulary.scores.take();
        let (model, unknown) = build_model(&vocab, file.model, scores, byte_level)?;
        let named = |key: &str| {
            config.and_then(|config| token_named(config, key)).and_then(|name| vocab.find(name.as_bytes()))
        };
        let bos = named("bos_token").or(before.first().copied());
        let eos = named("eos_token");
        if let Some(config) = config {
            adjust_around(config, [bos, eos], &mut before, &mut after);
        }
        if let Some(id) = before.iter().chain(&after).find(|id| **id as usize >= vocab.len()) {
            let message = format!("token {id} is outside the vocabulary of {} tokens", vocab.len());
            return Err(Error::new(ErrorCode::InvalidValue, message).at("post_processor"));
        }
        Ok(Tokenizer {
            specials,
            normalized_specials,
            normalizer,
            pre,
            model,
            decoding,
            before,
            after,
            bos,
            eos,
            unknown,
            end_tokens: end_tokens(&vocab, eos),
            vocab,
        })
    }

    /// Adds the end tokens of a `generation_config.json`: `eos_token_id`, one id or a list. Ids outside the vocabulary
    /// are passed over.
    pub fn with_generation_config(mut self, config: &Json) -> Tokenizer {
        let eos = &config["eos_token_id"];
        let one = std::slice::from_ref(eos);
        let ids = eos.as_array().map_or(one, Vec::as_slice).iter().filter_map(Json::as_u64);
        let known = ids.filter(|id| *id < self.vocab.len() as u64).map(|id| id as u32);
        self.end_tokens =
            end_tokens(&self.vocab, known.chain(self.end_tokens.iter().copied()).collect::<Vec<_>>());
        self
    }

    /// Reads RWKV's `rwkv_vocab.txt`: a line for each token, with its id, a Python literal and its length in bytes. Id 0
    /// ends a text.
    ///
    /// # Errors
    /// `malformed` with the line at fault, `limit-exceeded`.
    pub fn from_rwkv_vocab(text: &str) -> Result<Tokenizer> {
        let mut tokens: Vec<(u32, Vec<u8>)> = vec![(0, b"<|endoftext|>".to_vec())];
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let token = read_line(line).filter(|(id, _)| *id != 0).ok_or_else(|| {
                let message = "needs an id, a literal and the literal's length in bytes";
                Error::new(ErrorCode::Malformed, message).at(format!("rwkv_vocab.txt:{}", index + 1))
            })?;
            tokens.push(token);
        }
        let (texts, mut kinds) = table(tokens.iter().map(|(id, bytes)| (*id, bytes.as_slice())))?;
        kinds[0] = TokenKind::Control;
        let vocab = Vocab::new(texts, kinds);
        Ok(Tokenizer {
            specials: Specials::of(&vocab),
            normalized_specials: Specials::default(),
            normalizer: Normalizer::default(),
            pre: PreTokenizer::default(),
            model: Model::World(World::new(&vocab, "rwkv_vocab.txt")?),
            decoding: Decoding::plain(),
            before: Vec::new(),
            after: Vec::new(),
            bos: None,
            eos: Some(0),
            unknown: None,
            end_tokens: end_tokens(&vocab, [0]),
            vocab,
        })
    }
}

/// The text of a token that `tokenizer_config.json` names, plain or as an object.
fn token_named<'c>(config: &'c Json, key: &str) -> Option<&'c str> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Puts tokens at their ids; ids that nothing names are unused tokens without text.
fn table<'t>(tokens: impl Iterator<Item = (u32, &'t [u8])>) -> Result<(StringArray, Vec<TokenKind>)> {
    let mut at: Vec<Option<&[u8]>> = Vec::new();
    for (id, text) in tokens {
        let id = id as usize;
        if id >= MAX_TOKENS {
            let message = format!("token id {id}, at most {MAX_TOKENS} are accepted");
            return Err(Error::new(ErrorCode::LimitExceeded, message).at("model.vocab"));
        }
        if at.len() <= id {
            at.resize(id + 1, None);
        }
        at[id] = Some(text);
    }
    let mut texts = StringArray::default();
    let kinds = at.iter().map(|text| if text.is_some() { TokenKind::Normal } else { TokenKind::Unused });
    let kinds = kinds.collect();
    for text in &at {
        if !texts.push(text.unwrap_or_default()) {
            return Err(
                Error::new(ErrorCode::LimitExceeded, "the vocabulary is over 4 GiB").at("model.vocab")
            );
        }
    }
    Ok((texts, kinds))
}

/// The model's tokens and the added ones, in the bytes that they stand for.
fn build_vocab(file: &TokenizerJson, byte_level: bool) -> Result<Vocab> {
    let model = file.vocabulary.ids.iter().copied().zip(file.vocabulary.texts.iter());
    let added = file.added_tokens.iter().map(|token| (token.id, token.content.as_bytes()));
    let (raw, mut kinds) = table(model.chain(added))?;
    if kinds.is_empty() {
        return Err(Error::new(ErrorCode::InvalidValue, "the vocabulary is empty").at("model.vocab"));
    }
    let byte_fallback = match &file.model {
        ModelJson::Bpe(model) => model.byte_fallback,
        ModelJson::Unigram { byte_fallback, .. } => *byte_fallback,
        ModelJson::WordPiece { .. } => false,
    };
    if byte_fallback {
        for (kind, text) in kinds.iter_mut().zip(raw.iter()) {
            if byte_of_token(text).is_some() {
                *kind = TokenKind::Byte;
            }
        }
    }
    for token in &file.added_tokens {
        kinds[token.id as usize] = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
    }
    if !byte_level {
        return Ok(Vocab::new(raw, kinds));
    }
    let mut texts = StringArray::default();
    let mut bytes = Vec::new();
    for (text, kind) in raw.iter().zip(&kinds) {
        bytes.clear();
        match kind {
            TokenKind::Normal => bytes_of_alphabet(text, &mut bytes),
            _ => bytes.extend_from_slice(text),
        }
        // Never longer than the raw texts, which fitted.
        texts.push(&bytes);
    }
    Ok(Vocab::new(texts, kinds))
}

/// The added tokens: those looked for in the text as it is, and those looked for in the normalised text.
fn build_specials(added: &[AddedToken], normalizer: &Normalizer) -> Result<(Specials, Specials)> {
    let mut lists = [Vec::new(), Vec::new()];
    for (index, token) in added.iter().enumerate().filter(|(_, token)| !token.content.is_empty()) {
        if token.content.len() > MAX_ADDED {
            let message = format!("an added token of over {MAX_ADDED} bytes");
            let error = Error::new(ErrorCode::LimitExceeded, message);
            return Err(error.at(format!("added_tokens[{index}].content")));
        }
        let content = token.content.as_bytes();
        let normalized = token.normalized && !normalizer.is_empty();
        let text = if normalized { normalizer.apply(content) } else { content.into() };
        lists[usize::from(normalized)].push(Special {
            text: text.as_ref().into(),
            id: token.id,
            control: token.special || is_structural(content),
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            single_word: token.single_word,
        });
    }
    Ok(lists.map(Specials::new).into())
}

fn build_model(
    vocab: &Vocab,
    model: ModelJson,
    scores: Option<Vec<f64>>,
    byte_level: bool,
) -> Result<(Model, Option<u32>)> {
    let unknown_named = |name: &str, field: &str| {
        vocab.find(name.as_bytes()).ok_or_else(|| {
            let message = format!("the unknown token \"{name}\" is not in the vocabulary");
            Error::new(ErrorCode::InvalidValue, message).at(format!("model.{field}"))
        })
    };
    Ok(match model {
        ModelJson::Bpe(model) => {
            let unknown =
                model.unk_token.as_deref().map(|name| unknown_named(name, "unk_token")).transpose()?;
            (Model::Bpe(build_bpe(vocab, &model, unknown, byte_level)?), unknown)
        }
        ModelJson::Unigram { unk_id, byte_fallback } => {
            if unk_id.is_some_and(|id| id as usize >= vocab.len()) {
                let error =
                    Error::new(ErrorCode::InvalidValue, "the unknown token is outside the vocabulary");
                return Err(error.at("model.unk_id"));
            }
            let mut scores = scores.unwrap_or_default();
            scores.resize(vocab.len(), 0.0);
            (Model::Unigram(Unigram::new(vocab, scores, unk_id, byte_fallback, "model.vocab")?), unk_id)
        }
        ModelJson::WordPiece { unk_token, continuing_subword_prefix, max_input_chars_per_word } => {
            let unknown = Some(unknown_named(&unk_token, "unk_token")?);
            let model = WordPiece {
                unknown,
                first: Box::default(),
                continuing: continuing_subword_prefix.as_bytes().into(),
                max_chars: max_input_chars_per_word,
            };
            (Model::WordPiece(model), unknown)
        }
    })
}

fn build_bpe(vocab: &Vocab, model: &BpeModel, unknown: Option<u32>, byte_level: bool) -> Result<Bpe> {
    let initial = match byte_level {
        true => Initial::Bytes,
        false => Initial::Chars {
            bytes: model.byte_fallback.then(|| Box::new(byte_ids(vocab))),
            unknown,
            fuse: model.fuse_unk,
        },
    };
    let mut buffer = Vec::new();
    let merges = (0..model.merges.len() / 2).map(|rank| {
        let mut side =
            |index| find_side(vocab, model.merges.get(index).unwrap_or_default(), byte_level, &mut buffer);
        Ok((side(rank * 2)?, side(rank * 2 + 1)?))
    });
    Bpe::new(vocab, merges, initial, model.ignore_merges, |rank| format!("model.merges[{rank}]"))
}

/// Adds the tokens around a text, from the inside out.
fn add_around(post: &PostProcessor, before: &mut Vec<u32>, after: &mut Vec<u32>) {
    match post {
        PostProcessor::Sequence(steps) => steps.iter().for_each(|step| add_around(step, before, after)),
        PostProcessor::Template { before: first, after: last } => {
            before.splice(0..0, first.iter().copied());
            after.extend(last);
        }
        PostProcessor::ByteLevel => {}
    }
}

/// Some tokenizer classes make the tokens around a text from flags of their configuration, whatever the file says.
fn adjust_around(config: &Json, ids: [Option<u32>; 2], before: &mut Vec<u32>, after: &mut Vec<u32>) {
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    if !matches!(class.trim_end_matches("Fast"), "LlamaTokenizer" | "GemmaTokenizer" | "CodeLlamaTokenizer") {
        return;
    }
    for (key, id, list) in [("add_bos_token", ids[0], before), ("add_eos_token", ids[1], after)] {
        if let Some(wanted) = config[key].as_bool() {
            *list = id.filter(|_| wanted).into_iter().collect();
        }
    }
}
