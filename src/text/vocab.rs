//! The token table: id -> bytes, bytes -> id, and what kind each token is.
//!
//! Principal type: [`Vocab`]. Two flat arrays and one table of ids: no allocation per token. Must not know how text
//! is split or merged.

use std::hash::{BuildHasher, RandomState};

use crate::error::{Error, ErrorCode, Result};
use crate::formats::metadata::{Metadata, StringArray, Value, missing};

/// Metadata key of the token texts.
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
/// Metadata key of the token kinds.
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
/// Metadata key of the token scores.
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";

/// More tokens than any model has; a bound on what a hostile file can make us index.
pub(crate) const MAX_TOKENS: usize = 1 << 20;

/// GGUF's token types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Normal,
    Unknown,
    /// Structure of the prompt: never made from plain text, not shown.
    Control,
    /// Matched literally before the text is split, and shown.
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    fn from_code(code: i64) -> Option<TokenKind> {
        Some(match code {
            0 | 1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }
}

const EMPTY: u32 = u32::MAX;

/// All tokens of a model.
pub(crate) struct Vocab {
    texts: StringArray,
    kinds: Vec<TokenKind>,
    /// Open addressing over token ids; a power of two long, at most half full.
    slots: Vec<u32>,
    /// So that no file can be made to collide on purpose.
    seed: u64,
    /// Length in bytes of the longest token; longer text is no token, and is not hashed.
    longest: usize,
}

impl Vocab {
    /// Indexes tokens. When two have the same bytes, an ordinary one wins over a special one, then the lower id.
    pub(crate) fn new(texts: StringArray, kinds: Vec<TokenKind>) -> Vocab {
        let longest = texts.iter().map(<[u8]>::len).max().unwrap_or(0);
        let slots = vec![EMPTY; (texts.len() * 2).next_power_of_two().max(2)];
        let mut vocab = Vocab { texts, kinds, slots, seed: RandomState::new().hash_one(0u64), longest };
        for ordinary in [true, false] {
            for id in 0..vocab.kinds.len() {
                if (vocab.kinds[id] == TokenKind::Normal) == ordinary {
                    vocab.index(id as u32);
                }
            }
        }
        vocab
    }

    fn index(&mut self, id: u32) {
        let text = self.texts.get(id as usize).expect("invariant: kinds and texts are of one length");
        let slot = self.slot_of(text);
        if self.slots[slot] == EMPTY {
            self.slots[slot] = id;
        }
    }

    /// The slot that holds `text`, or the empty one where it would go.
    fn slot_of(&self, text: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(text, self.seed) as usize & mask;
        loop {
            let id = self.slots[slot];
            if id == EMPTY || self.texts.get(id as usize) == Some(text) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The token of exactly these bytes, of whatever kind.
    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let id = self.slots[self.slot_of(text)];
        (id != EMPTY).then_some(id)
    }

    /// The token of these bytes that plain text may become: special tokens are not text.
    pub(crate) fn find_text(&self, text: &[u8]) -> Option<u32> {
        self.find(text).filter(|id| self.kinds[*id as usize] == TokenKind::Normal)
    }

    pub(crate) fn text(&self, id: u32) -> Option<&[u8]> {
        self.texts.get(id as usize)
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(crate) fn kinds(&self) -> &[TokenKind] {
        &self.kinds
    }
}

/// A keyed hash of a few bytes. Every neighbouring pair of a SentencePiece text is looked up, and every merge of a file
/// three times: std's SipHash was most of that work.
fn hash(text: &[u8], seed: u64) -> u64 {
    let mut state = seed ^ text.len() as u64;
    for chunk in text.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word));
    }
    state
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The token texts as the file has them, checked for number.
pub(crate) fn read_texts(metadata: &Metadata) -> Result<&StringArray> {
    let texts = metadata.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    if texts.is_empty() {
        return Err(Error::new(ErrorCode::InvalidValue, "the vocabulary is empty").at(TOKENS));
    }
    if texts.len() > MAX_TOKENS {
        let message = format!("{} tokens, at most {MAX_TOKENS} are accepted", texts.len());
        return Err(Error::new(ErrorCode::LimitExceeded, message).at(TOKENS));
    }
    Ok(texts)
}

/// The token kinds, or none when the file does not tell.
pub(crate) fn read_kinds(metadata: &Metadata, n_vocab: usize) -> Result<Option<Vec<TokenKind>>> {
    let convert = |index: usize, code: i64| {
        TokenKind::from_code(code).ok_or_else(|| {
            Error::new(ErrorCode::InvalidValue, format!("{code} is not a token type"))
                .at(format!("{TOKEN_TYPE}[{index}]"))
        })
    };
    let kinds = match metadata.get(TOKEN_TYPE) {
        None => return Ok(None),
        Some(Value::Ints(codes)) => {
            codes.iter().enumerate().map(|(i, code)| convert(i, *code)).collect::<Result<Vec<_>>>()?
        }
        Some(Value::Uints(codes)) => codes
            .iter()
            .enumerate()
            .map(|(i, code)| convert(i, i64::try_from(*code).unwrap_or(i64::MAX)))
            .collect::<Result<Vec<_>>>()?,
        Some(other) => {
            let message = format!("needs an array of integers, the file has {}", other.type_name());
            return Err(Error::new(ErrorCode::WrongType, message).at(TOKEN_TYPE));
        }
    };
    check_length(TOKEN_TYPE, kinds.len(), n_vocab)?;
    Ok(Some(kinds))
}

/// The token scores (merge priorities of SentencePiece, higher first).
pub(crate) fn read_scores(metadata: &Metadata, n_vocab: usize) -> Result<Vec<f32>> {
    let scores = match metadata.get(SCORES) {
        None => return Err(missing(SCORES)),
        Some(Value::Floats(scores)) => scores.clone(),
        Some(other) => {
            let message = format!("needs an array of floats, the file has {}", other.type_name());
            return Err(Error::new(ErrorCode::WrongType, message).at(SCORES));
        }
    };
    check_length(SCORES, scores.len(), n_vocab)?;
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        let error = Error::new(ErrorCode::InvalidValue, "a score is not a number");
        return Err(error.at(format!("{SCORES}[{index}]")));
    }
    Ok(scores)
}

fn check_length(key: &str, found: usize, n_vocab: usize) -> Result<()> {
    if found == n_vocab {
        return Ok(());
    }
    let message = format!("has {found} values, the vocabulary has {n_vocab} tokens");
    Err(Error::new(ErrorCode::InvalidValue, message).at(key))
}
