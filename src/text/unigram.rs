//! Unigram: the most probable way to cut a text into tokens (Viterbi), in one pass.
//!
//! Principal type: [`Unigram`]. Must not know how text is normalised or cut into pre-tokens.

use super::chars::char_at;
use super::prefixes::Prefixes;
use super::spm::byte_ids;
use super::vocab::{TokenKind, Vocab};
use crate::error::{Error, ErrorCode, Result};

/// What an unknown character costs, below the least probable token. SentencePiece's.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Scores (logarithms of probabilities) and the index of the tokens.
pub(crate) struct Unigram {
    scores: Vec<f64>,
    prefixes: Prefixes,
    unknown: Option<u32>,
    unknown_score: f64,
    /// The tokens of bytes, for characters that have none.
    bytes: Option<Box<[Option<u32>; 256]>>,
}

/// The best way to reach a byte offset.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: usize,
    /// None for an unknown character.
    id: Option<u32>,
}

impl Unigram {
    /// Takes one score for each token. Control tokens are never made from text; user-defined ones cost nothing.
    pub(crate) fn new(
        vocab: &Vocab,
        mut scores: Vec<f64>,
        unknown: Option<u32>,
        byte_fallback: bool,
        path: &str,
    ) -> Result<Unigram> {
        if let Some(index) = scores.iter().position(|score| !score.is_finite()) {
            let error = Error::new(ErrorCode::InvalidValue, "a score is not a finite number");
            return Err(error.at(format!("{path}[{index}]")));
        }
        let is_text = |id: u32| {
            matches!(vocab.kind(id), Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused))
        };
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        for (score, kind) in scores.iter_mut().zip(vocab.kinds()) {
            if *kind == TokenKind::UserDefined {
                *score = 0.0;
            }
        }
        Ok(Unigram {
            prefixes: Prefixes::new(vocab, |id| is_text(id) && Some(id) != unknown, path)?,
            unknown,
            unknown_score: least - UNKNOWN_PENALTY,
            bytes: byte_fallback.then(|| Box::new(byte_ids(vocab))),
            scores,
        })
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], out: &mut Vec<u32>) {
        let unreached = Best { score: f64::NEG_INFINITY, start: usize::MAX, id: None };
        let mut best = vec![unreached; text.len() + 1];
        best[0].score = 0.0;
        let mut at = 0;
        while let Some((_, len)) = char_at(text, at) {
            let before = best[at].score;
            let mut whole = false;
            self.prefixes.of(vocab, &text[at..], |length, id| {
                whole |= length == len;
                let score = before + self.scores[id as usize];
                let end = &mut best[at + length];
                if end.start == usize::MAX || score > end.score {
                    *end = Best { score, start: at, id: Some(id) };
                }
            });
            let score = before + self.unknown_score;
            let end = &mut best[at + len];
            if !whole && (end.start == usize::MAX || score > end.score) {
                *end = Best { score, start: at, id: None };
            }
            at += len;
        }
        self.trace_back(text, &best, out);
    }

    /// Appends the tokens of the best way to the end. Neighbouring unknown characters are one unknown token.
    fn trace_back(&self, text: &[u8], best: &[Best], out: &mut Vec<u32>) {
        let mut pieces = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { start, id, .. } = best[end];
            match (pieces.last_mut(), id) {
                (Some((unknown_start, None, _)), None) => *unknown_start = start,
                _ => pieces.push((start, id, end)),
            }
            end = start;
        }
        for (start, id, end) in pieces.into_iter().rev() {
            match (id, &self.bytes) {
                (Some(id), _) => out.push(id),
                (None, Some(ids))
                    if text[start..end].iter().all(|byte| ids[usize::from(*byte)].is_some()) =>
                {
                    out.extend(text[start..end].iter().filter_map(|byte| ids[usize::from(*byte)]));
                }
                (None, _) => out.extend(self.unknown),
            }
        }
    }
}
