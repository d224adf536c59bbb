//! Tokenizers from GGUF's keys `tokenizer.ggml.*`.
//!
//! Principal function: [`Tokenizer::from_metadata`]. Must not know models.

use super::bpe::{Bpe, Initial, MERGES, bytes_of_alphabet};
use super::charsmap::CharsMap;
use super::decode::Decoding;
use super::names::{end_tokens, is_structural};
use super::normalize::{Normalizer, Step, bert_steps, sentence_piece_steps};
use super::pretokenize::{GEMMA4, PreTokenizer, pre_kind};
use super::specials::Specials;
use super::spm::{SPACE, Spm, byte_ids};
use super::tokenizer::{Model, Tokenizer};
use super::unigram::Unigram;
use super::vocab::{SCORES, TOKENS, TokenKind, Vocab, read_kinds, read_scores, read_texts};
use super::wordpiece::WordPiece;
use super::world::{World, unescape};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::metadata::{Metadata, StringArray, Value, missing};

const MODEL: &str = "tokenizer.ggml.model";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";

/// What the kinds of vocabularies differ in.
struct Parts {
    vocab: Vocab,
    model: Model,
    normalizer: Normalizer,
    pre: PreTokenizer,
    decoding: Decoding,
    /// Ids of bos, eos, unknown and separator when the file does not say.
    ids: [Option<u32>; 4],
    add_bos: bool,
    add_eos: bool,
    add_sep: bool,
}

impl Parts {
    fn new(vocab: Vocab, model: Model) -> Parts {
        Parts {
            vocab,
            model,
            normalizer: Normalizer::default(),
            pre: PreTokenizer::default(),
            decoding: Decoding::plain(),
            ids: [None; 4],
            add_bos: false,
            add_eos: false,
            add_sep: false,
        }
    }
}

impl Tokenizer {
    /// Reads the keys `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// `unsupported-tokenizer` for a kind or pre-tokenizer that is not known; `missing-key`, `wrong-type`,
    /// `invalid-value` and `limit-exceeded` with the key (and index) at fault.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        let parts = match metadata.str(MODEL)?.ok_or_else(|| missing(MODEL))? {
            "gpt2" => byte_level(metadata)?,
            "llama" => sentence_piece(metadata)?,
            "bert" => word_piece(metadata)?,
            "t5" => unigram(metadata)?,
            "rwkv" => world(metadata)?,
            "gemma4" => gemma4(metadata)?,
            other => {
                let message = format!(
                    "tokenizer \"{other}\" is not supported; gpt2 (byte-level BPE), llama (SentencePiece BPE), bert \
                     (WordPiece), t5 (Unigram), rwkv (World) and gemma4 are"
                );
                return Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at(MODEL));
            }
        };
        assemble(metadata, parts)
    }
}

fn byte_level(metadata: &Metadata) -> Result<Parts> {
    let kind = pre_kind(metadata.str("tokenizer.ggml.pre")?)?;
    let raw = read_texts(metadata)?;
    let kinds = kinds_of(metadata, raw)?;
    let mut texts = StringArray::default();
    let mut bytes = Vec::new();
    for (text, kind) in raw.iter().zip(&kinds) {
        // Only ordinary tokens are written in the byte alphabet; special tokens stand as they are.
        let fits = match kind {
            TokenKind::Normal => {
                bytes.clear();
                bytes_of_alphabet(text, &mut bytes);
                texts.push(&bytes)
            }
            _ => texts.push(text),
        };
        if !fits {
            return Err(Error::new(ErrorCode::LimitExceeded, "the vocabulary is over 4 GiB"));
        }
    }
    let vocab = Vocab::new(texts, kinds);
    let merges = metadata.strings(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let bpe = Bpe::from_lines(&vocab, merges, Initial::Bytes, true, kind.ignore_merges)?;
    let normalizer = Normalizer::new(if kind.nfc { vec![Step::Nfc] } else { Vec::new() });
    let pre = PreTokenizer::isolating(kind.patterns);
    Ok(Parts { normalizer, pre, add_bos: kind.add_bos, ..Parts::new(vocab, Model::Bpe(bpe)) })
}

fn sentence_piece(metadata: &Metadata) -> Result<Parts> {
    let vocab = plain_vocab(metadata)?;
    let spm = Spm::new(&vocab, read_scores(metadata, vocab.len())?)?;
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    Ok(Parts {
        normalizer: Normalizer::new(sentence_piece_steps(prefix)),
        decoding: Decoding::sentence_piece(prefix),
        ids: [Some(1), Some(2), Some(0), None],
        add_bos: true,
        ..Parts::new(vocab, Model::Spm(spm))
    })
}

/// Merges over characters, with visible spaces; text is cut at line breaks only.
fn gemma4(metadata: &Metadata) -> Result<Parts> {
    let vocab = plain_vocab(metadata)?;
    let merges = metadata.strings(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let initial = Initial::Chars { bytes: Some(Box::new(byte_ids(&vocab))), unknown: None, fuse: false };
    let bpe = Bpe::from_lines(&vocab, merges, initial, false, false)?;
    Ok(Parts {
        normalizer: Normalizer::new(sentence_piece_steps(false)),
        pre: PreTokenizer::isolating(GEMMA4),
        decoding: Decoding::sentence_piece(false),
        add_bos: true,
        ..Parts::new(vocab, Model::Bpe(bpe))
    })
}

fn word_piece(metadata: &Metadata) -> Result<Parts> {
    let vocab = plain_vocab(metadata)?;
    let flag = |name: &str, default| {
        Ok(metadata.bool(&format!("tokenizer.ggml.normalizer.{name}"))?.unwrap_or(default))
    };
    let lowercase = flag("lowercase", true)?;
    let strip_accents = flag("strip_accents", lowercase)?;
    let model = WordPiece {
        unknown: read_id(metadata, vocab.len(), "unknown", Some(100))?,
        first: SPACE.as_bytes().into(),
        continuing: Box::default(),
        max_chars: 100,
    };
    Ok(Parts {
        normalizer: Normalizer::new(bert_steps(true, true, strip_accents, lowercase)),
        pre: PreTokenizer::bert(),
        decoding: Decoding::phantom_spaces(),
        ids: [Some(101), None, Some(100), Some(102)],
        add_bos: true,
        add_sep: true,
        ..Parts::new(vocab, Model::WordPiece(model))
    })
}

fn unigram(metadata: &Metadata) -> Result<Parts> {
    let vocab = plain_vocab(metadata)?;
    let scores = read_scores(metadata, vocab.len())?.into_iter().map(f64::from).collect();
    let unknown = read_id(metadata, vocab.len(), "unknown", Some(2))?;
    let mut steps = Vec::new();
    if let Some(map) = CharsMap::from_bytes(&charsmap_bytes(metadata)?, CHARSMAP)? {
        steps.push(Step::CharsMap(Box::new(map)));
    }
    if metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false) {
        steps.extend(Step::single_spaces());
    }
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    steps.extend(sentence_piece_steps(prefix));
    Ok(Parts {
        normalizer: Normalizer::new(steps),
        decoding: Decoding::sentence_piece(prefix),
        ids: [None, Some(1), Some(2), None],
        add_eos: true,
        model: Model::Unigram(Unigram::new(&vocab, scores, unknown, false, SCORES)?),
        vocab,
        pre: PreTokenizer::default(),
        add_bos: false,
        add_sep: false,
    })
}

fn charsmap_bytes(metadata: &Metadata) -> Result<Vec<u8>> {
    let wrong = |found: &Value| {
        let message = format!("needs an array of bytes, the file has {}", found.type_name());
        Error::new(ErrorCode::WrongType, message).at(CHARSMAP)
    };
    match metadata.get(CHARSMAP) {
        None => Ok(Vec::new()),
        // Bytes are written as signed or unsigned.
        Some(Value::Ints(list)) => Ok(list.iter().map(|byte| *byte as u8).collect()),
        Some(Value::Uints(list)) => Ok(list.iter().map(|byte| *byte as u8).collect()),
        Some(other) => Err(wrong(other)),
    }
}

fn world(metadata: &Metadata) -> Result<Parts> {
    let raw = read_texts(metadata)?;
    let kinds = kinds_of(metadata, raw)?;
    let mut texts = StringArray::default();
    for (id, (text, kind)) in raw.iter().zip(&kinds).enumerate() {
        let spelled = std::str::from_utf8(text).ok();
        let bytes = match kind {
            TokenKind::Normal => {
                spelled.and_then(|text| unescape(text, true).or_else(|| unescape(text, false)))
            }
            _ => Some(text.to_vec()),
        };
        let Some(bytes) = bytes else {
            let message = format!("\"{}\" is no literal of a token", text.escape_ascii());
            return Err(Error::new(ErrorCode::InvalidValue, message).at(format!("{TOKENS}[{id}]")));
        };
        if !texts.push(&bytes) {
            return Err(Error::new(ErrorCode::LimitExceeded, "the vocabulary is over 4 GiB"));
        }
    }
    let vocab = Vocab::new(texts, kinds);
    let world = World::new(&vocab, TOKENS)?;
    Ok(Parts::new(vocab, Model::World(world)))
}

/// A vocabulary whose tokens stand as they are written.
fn plain_vocab(metadata: &Metadata) -> Result<Vocab> {
    let texts = read_texts(metadata)?;
    let kinds = kinds_of(metadata, texts)?;
    Ok(Vocab::new(texts.clone(), kinds))
}

/// Reads the ids of special tokens and puts the tokenizer together.
fn assemble(metadata: &Metadata, parts: Parts) -> Result<Tokenizer> {
    let vocab = parts.vocab;
    let id = |name: &str, default: Option<u32>| read_id(metadata, vocab.len(), name, default);
    let bos = id("bos", parts.ids[0])?;
    let eos = id("eos", parts.ids[1])?;
    let unknown = id("unknown", parts.ids[2])?;
    // The key is spelled so.
    let separator = id("seperator", parts.ids[3])?;
    for unused in ["padding", "mask"] {
        id(unused, None)?;
    }
    let ends = [eos, id("eot", None)?, id("eom", None)?];
    let end_tokens = end_tokens(&vocab, ends.into_iter().flatten());
    let adds = |name: &str, default| {
        Ok(metadata.bool(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(default))
    };
    let mut after = Vec::new();
    if adds("sep", parts.add_sep)? {
        after.extend(separator);
    }
    if adds("eos", parts.add_eos)? {
        after.extend(eos);
    }
    let add_bos = adds("bos", parts.add_bos)?;
    Ok(Tokenizer {
        specials: specials_of(&vocab, &parts.model),
        normalized_specials: Specials::default(),
        normalizer: parts.normalizer,
        pre: parts.pre,
        model: parts.model,
        decoding: parts.decoding,
        before: bos.filter(|_| add_bos).into_iter().collect(),
        after,
        bos,
        eos,
        unknown,
        end_tokens,
        vocab,
    })
}

/// The special tokens. GGUF does not say which take white space along; Phi-3's do, and its vocabulary is known by them.
fn specials_of(vocab: &Vocab, model: &Model) -> Specials {
    let specials = Specials::of(vocab);
    let control =
        |name: &str| vocab.find(name.as_bytes()).and_then(|id| vocab.kind(id)) == Some(TokenKind::Control);
    if !matches!(model, Model::Spm(_)) || !["<|user|>", "<|assistant|>", "<|end|>"].into_iter().all(control) {
        return specials;
    }
    specials.taking_space_after(|text| {
        text == b"</s>" || (text.starts_with(b"<|") && text.ends_with(b"|>") && text != b"<|endoftext|>")
    })
}

/// The kinds of all tokens, with structural tokens made control tokens whatever the file calls them.
fn kinds_of(metadata: &Metadata, texts: &StringArray) -> Result<Vec<TokenKind>> {
    let kinds = read_kinds(metadata, texts.len())?;
    let told = kinds.is_some();
    let mut kinds = kinds.unwrap_or_else(|| vec![TokenKind::Normal; texts.len()]);
    for (kind, text) in kinds.iter_mut().zip(texts.iter()) {
        // "</s>" may be an ordinary token of a vocabulary that knows HTML; "<|im_end|>" is not.
        let pipes = text.starts_with(b"<|") && text.ends_with(b"|>");
        let doubtful = match kind {
            TokenKind::UserDefined => true,
            TokenKind::Normal => !told || pipes,
            _ => false,
        };
        if doubtful && is_structural(text) {
            *kind = TokenKind::Control;
        }
    }
    Ok(kinds)
}

/// The id under `tokenizer.ggml.{name}_token_id`, or the default; either must be in the vocabulary.
fn read_id(metadata: &Metadata, n_vocab: usize, name: &str, default: Option<u32>) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = metadata.u64(&key)?.or(default.map(u64::from)) else {
        return Ok(None);
    };
    match u32::try_from(id) {
        Ok(small) if (small as usize) < n_vocab => Ok(Some(small)),
        _ => {
            let message = format!("token {id} is outside the vocabulary of {n_vocab} tokens");
            Err(Error::new(ErrorCode::InvalidValue, message).at(key))
        }
    }
}
