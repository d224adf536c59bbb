//! SentencePiece BPE: neighbouring characters are merged into the token of the highest score, in O(n log n).
//!
//! Principal type: [`Spm`]. Must not know special tokens.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::chars::char_at;
use super::vocab::{TOKENS, TokenKind, Vocab};
use crate::error::{Error, ErrorCode, Result};

/// The character that stands for a space within tokens.
pub(crate) const SPACE: &str = "\u{2581}";

/// Scores and byte tokens of a SentencePiece vocabulary.
pub(crate) struct Spm {
    scores: Vec<f32>,
    byte_ids: [Option<u32>; 256],
}

/// A run of bytes that is one token, or not yet one.
struct Symbol {
    start: usize,
    /// 0 once merged into the left neighbour.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A possible merge. The highest score first, then from left to right.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Joint length when offered: a later merge of either side makes the candidate stale.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    /// Takes the scores and reads the byte tokens, which must be spelled `<0x00>` to `<0xFF>`.
    pub(crate) fn new(vocab: &Vocab, scores: Vec<f32>) -> Result<Spm> {
        check_byte_tokens(vocab)?;
        Ok(Spm { scores, byte_ids: byte_ids(vocab) })
    }

    /// Appends the tokens of `text`, in which spaces are already written as [`SPACE`]. Characters without a token
    /// fall back to byte tokens, and bytes without a token to `unknown` (once per character) or nothing.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], unknown: Option<u32>, out: &mut Vec<u32>) {
        let mut symbols = split(text);
        let mut heap = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.offer(vocab, text, &symbols, &mut heap, left);
        }
        while let Some(candidate) = heap.pop() {
            let Candidate { left, right, len, .. } = candidate;
            let stale = symbols[left].len == 0
                || symbols[right].len == 0
                || symbols[left].len + symbols[right].len != len;
            if stale {
                continue;
            }
            symbols[left].len = len;
            symbols[right].len = 0;
            let after = symbols[right].next;
            symbols[left].next = after;
            if after != NONE {
                symbols[after].prev = left;
            }
            let before = symbols[left].prev;
            self.offer(vocab, text, &symbols, &mut heap, before);
            self.offer(vocab, text, &symbols, &mut heap, left);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            self.emit(vocab, &text[symbol.start..symbol.start + symbol.len], unknown, out);
        }
    }

    /// Puts the merge of `left` with its right neighbour on the heap, if it makes a token.
    fn offer(
        &self,
        vocab: &Vocab,
        text: &[u8],
        symbols: &[Symbol],
        heap: &mut BinaryHeap<Candidate>,
        left: usize,
    ) {
        let Some(symbol) = symbols.get(left) else {
            return;
        };
        let right = symbol.next;
        let Some(neighbour) = symbols.get(right) else {
            return;
        };
        let len = symbol.len + neighbour.len;
        if let Some(id) = vocab.find_text(&text[symbol.start..symbol.start + len]) {
            heap.push(Candidate { score: self.scores[id as usize], left, right, len });
        }
    }

    fn emit(&self, vocab: &Vocab, piece: &[u8], unknown: Option<u32>, out: &mut Vec<u32>) {
        if let Some(id) = vocab.find_text(piece) {
            out.push(id);
            return;
        }
        let known = piece.iter().all(|byte| self.byte_ids[usize::from(*byte)].is_some());
        if known {
            out.extend(piece.iter().filter_map(|byte| self.byte_ids[usize::from(*byte)]));
        } else {
            out.extend(unknown);
        }
    }
}

/// One symbol per character; what is not UTF-8 is one symbol per faulty sequence.
fn split(text: &[u8]) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(text.len());
    let mut start = 0;
    while let Some((_, len)) = char_at(text, start) {
        let at = symbols.len();
        symbols.push(Symbol { start, len, prev: at.wrapping_sub(1), next: at + 1 });
        start += len;
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

/// Checks that tokens of kind `Byte` are spelled as such.
fn check_byte_tokens(vocab: &Vocab) -> Result<()> {
    for (id, kind) in vocab.kinds().iter().enumerate() {
        let text = vocab.text(id as u32).unwrap_or_default();
        if *kind == TokenKind::Byte && byte_of_token(text).is_none() {
            let message = format!("\"{}\" is a byte token and not of the form <0xNN>", text.escape_ascii());
            return Err(Error::new(ErrorCode::InvalidValue, message).at(format!("{TOKENS}[{id}]")));
        }
    }
    Ok(())
}

/// The tokens of kind `Byte`, by their byte.
pub(crate) fn byte_ids(vocab: &Vocab) -> [Option<u32>; 256] {
    let mut ids = [None; 256];
    for (id, kind) in vocab.kinds().iter().enumerate() {
        if *kind == TokenKind::Byte
            && let Some(byte) = vocab.text(id as u32).and_then(byte_of_token)
        {
            ids[usize::from(byte)].get_or_insert(id as u32);
        }
    }
    ids
}

/// `<0x0A>` -> 10; exactly two hexadecimal digits.
pub(crate) fn byte_of_token(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let [high, low] = digits else {
        return None;
    };
    let digit = |c: u8| (c as char).to_digit(16);
    Some((digit(*high)? * 16 + digit(*low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::metadata::StringArray;

    #[test]
    fn byte_tokens_are_read_strictly() {
        assert_eq!(byte_of_token(b"<0x0A>"), Some(10));
        assert_eq!(byte_of_token(b"<0xff>"), Some(255));
        for bad in ["<0xA>", "<0x0A", "0x0A", "<0xGG>", "<0x+A>", "<0x00A>", ""] {
            assert_eq!(byte_of_token(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_highest_score_wins_and_then_the_leftmost() {
        let mut texts = StringArray::default();
        for text in ["a", "b", "c", "ab", "bc", "aa"] {
            assert!(texts.push(text.as_bytes()));
        }
        let vocab = Vocab::new(texts, vec![TokenKind::Normal; 6]);
        let spm = Spm::new(&vocab, vec![0.0, 0.0, 0.0, -2.0, -1.0, -3.0]).expect("valid");
        let encode = |text: &str| {
            let mut out = Vec::new();
            spm.encode(&vocab, text.as_bytes(), Some(9), &mut out);
            out
        };
        assert_eq!(encode("abc"), [0, 4]);
        assert_eq!(encode("aaa"), [5, 0]);
        assert_eq!(encode("aéb"), [0, 9, 1], "one unknown token for one character");
    }
}
