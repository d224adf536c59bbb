//! Byte-pair encoding of one pre-token, in O(n log n) whatever its length.
//!
//! Principal type: [`Bpe`]. Must not know how text is cut into pre-tokens.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

use super::chars::char_at;
use super::vocab::{Vocab, mix};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::metadata::StringArray;

/// Metadata key of the merges.
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";

/// A rank and the token that the merge makes.
#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// Hashes the one integer that a pair of ids is. Looked up for every neighbouring pair of bytes of a prompt, where
/// SipHash would be the larger part of the work; seeded, so that no file can be made to collide on purpose.
#[derive(Clone)]
struct PairHashing {
    seed: u64,
}

struct PairHasher(u64);

impl BuildHasher for PairHashing {
    type Hasher = PairHasher;

    fn build_hasher(&self) -> PairHasher {
        PairHasher(self.seed)
    }
}

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The tokens that a pre-token is before any merge.
pub(crate) enum Initial {
    /// One for each byte. A byte without a token is left out, as the reference implementations do: files name a control
    /// token as the unknown one, and text must not turn into that.
    Bytes,
    /// One for each character.
    Chars {
        /// Characters without a token become the tokens of their bytes, if all of them have one.
        bytes: Option<Box<[Option<u32>; 256]>>,
        /// Stands for what is left; without it such characters are left out.
        unknown: Option<u32>,
        /// Neighbouring unknown characters become one token.
        fuse: bool,
    },
}

/// The merges of a BPE vocabulary.
pub(crate) struct Bpe {
    merges: HashMap<u64, Merge, PairHashing>,
    initial: Initial,
    /// The token of each single byte, where the vocabulary has one.
    byte_ids: [Option<u32>; 256],
    /// Try a pre-token as a whole before merging (Llama 3 trained its merges that way).
    ignore_merges: bool,
}

/// A live piece of a pre-token: a token and its neighbours by index. `DEAD` marks one merged into its left neighbour.
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;
const DEAD: u32 = u32::MAX;

/// A possible merge; ordered by rank, then from left to right.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    left_id: u32,
    right_id: u32,
    merged: u32,
}

/// Working memory, kept between the pre-tokens of one text.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Bpe {
    /// Takes merges as pairs of ids, the most important first, against a vocabulary of what the tokens stand for.
    /// `path` names a merge in errors.
    pub(crate) fn new(
        vocab: &Vocab,
        merges: impl ExactSizeIterator<Item = std::result::Result<(u32, u32), String>>,
        initial: Initial,
        ignore_merges: bool,
        path: impl Fn(usize) -> String,
    ) -> Result<Bpe> {
        let seed = RandomState::new().hash_one(0u64);
        let mut map = HashMap::with_capacity_and_hasher(merges.len(), PairHashing { seed });
        let mut joined = Vec::new();
        for (rank, merge) in merges.enumerate() {
            let fault = |message| Error::new(ErrorCode::InvalidValue, message).at(path(rank));
            let (left, right) = merge.map_err(fault)?;
            joined.clear();
            joined.extend_from_slice(vocab.text(left).unwrap_or_default());
            joined.extend_from_slice(vocab.text(right).unwrap_or_default());
            let Some(id) = vocab.find(&joined) else {
                return Err(fault(format!("merges to \"{}\", which is no token", joined.escape_ascii())));
            };
            // The first mention of a pair is the one that counts.
            map.entry(pair(left, right)).or_insert(Merge { rank: rank as u32, id });
        }
        let mut byte_ids = [None; 256];
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            *id = vocab.find_text(&[byte as u8]);
        }
        Ok(Bpe { merges: map, initial, byte_ids, ignore_merges })
    }

    /// Reads the lines of a GGUF file: "left right", in the byte alphabet when `alphabet` says so.
    pub(crate) fn from_lines(
        vocab: &Vocab,
        lines: &StringArray,
        initial: Initial,
        alphabet: bool,
        ignore_merges: bool,
    ) -> Result<Bpe> {
        let mut buffer = Vec::new();
        let merges = lines.iter().map(|line| read_merge(vocab, line, alphabet, &mut buffer));
        Bpe::new(vocab, merges, initial, ignore_merges, |rank| format!("{MERGES}[{rank}]"))
    }

    /// Appends the tokens of one pre-token.
    pub(crate) fn encode(&self, vocab: &Vocab, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.ignore_merges
            && let Some(id) = vocab.find_text(piece)
        {
            out.push(id);
            return;
        }
        let Scratch { symbols, heap } = scratch;
        symbols.clear();
        heap.clear();
        let mut push = |id| {
            let at = symbols.len() as u32;
            symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: at + 1 });
        };
        match &self.initial {
            Initial::Bytes => {
                piece.iter().filter_map(|byte| self.byte_ids[usize::from(*byte)]).for_each(push);
            }
            Initial::Chars { bytes, unknown, fuse } => {
                split_chars(vocab, piece, bytes.as_deref(), *unknown, *fuse, &mut push);
            }
        }
        let Some(last) = symbols.last_mut() else {
            return;
        };
        last.next = NONE;
        for left in 0..symbols.len() as u32 {
            self.offer(symbols, heap, left);
        }
        while let Some(Reverse(candidate)) = heap.pop() {
            self.apply(symbols, heap, &candidate);
        }
        out.extend(symbols.iter().map(|symbol| symbol.id).filter(|id| *id != DEAD));
    }

    /// Puts the merge of `left` with its right neighbour on the heap, if there is one.
    fn offer(&self, symbols: &[Symbol], heap: &mut BinaryHeap<Reverse<Candidate>>, left: u32) {
        let Some(symbol) = symbols.get(left as usize) else {
            return;
        };
        let Some(right) = symbols.get(symbol.next as usize) else {
            return;
        };
        if let Some(merge) = self.merges.get(&pair(symbol.id, right.id)) {
            heap.push(Reverse(Candidate {
                rank: merge.rank,
                left,
                left_id: symbol.id,
                right_id: right.id,
                merged: merge.id,
            }));
        }
    }

    /// Merges a candidate unless an earlier merge has changed one of its sides.
    fn apply(
        &self,
        symbols: &mut [Symbol],
        heap: &mut BinaryHeap<Reverse<Candidate>>,
        candidate: &Candidate,
    ) {
        let left = candidate.left as usize;
        let right = symbols[left].next as usize;
        if symbols[left].id != candidate.left_id
            || symbols.get(right).is_none_or(|symbol| symbol.id != candidate.right_id)
        {
            return;
        }
        let after = symbols[right].next;
        symbols[right].id = DEAD;
        symbols[left].id = candidate.merged;
        symbols[left].next = after;
        if let Some(symbol) = symbols.get_mut(after as usize) {
            symbol.prev = candidate.left;
        }
        self.offer(symbols, heap, symbols[left].prev);
        self.offer(symbols, heap, candidate.left);
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Calls `push` with the token of each character.
fn split_chars(
    vocab: &Vocab,
    piece: &[u8],
    bytes: Option<&[Option<u32>; 256]>,
    unknown: Option<u32>,
    fuse: bool,
    push: &mut impl FnMut(u32),
) {
    let mut at = 0;
    let mut after_unknown = false;
    while let Some((_, len)) = char_at(piece, at) {
        let c = &piece[at..at + len];
        at += len;
        if let Some(id) = vocab.find_text(c) {
            push(id);
            after_unknown = false;
            continue;
        }
        if let Some(ids) = bytes
            && c.iter().all(|byte| ids[usize::from(*byte)].is_some())
        {
            c.iter().filter_map(|byte| ids[usize::from(*byte)]).for_each(&mut *push);
            after_unknown = false;
            continue;
        }
        if let Some(id) = unknown
            && !(fuse && after_unknown)
        {
            push(id);
            after_unknown = true;
        }
    }
}

/// The two tokens of a merge line. The separator is the first space that has something before it. `buffer` saves an
/// allocation for each of some hundred thousand lines.
fn read_merge(
    vocab: &Vocab,
    line: &[u8],
    alphabet: bool,
    buffer: &mut Vec<u8>,
) -> std::result::Result<(u32, u32), String> {
    let separator = line.iter().skip(1).position(|byte| *byte == b' ');
    let Some(separator) = separator.map(|at| at + 1) else {
        return Err(format!("\"{}\" is not two tokens parted by a space", line.escape_ascii()));
    };
    let mut find = |text: &[u8]| find_side(vocab, text, alphabet, buffer);
    Ok((find(&line[..separator])?, find(&line[separator + 1..])?))
}

/// The token of one side of a merge.
pub(crate) fn find_side(
    vocab: &Vocab,
    text: &[u8],
    alphabet: bool,
    buffer: &mut Vec<u8>,
) -> std::result::Result<u32, String> {
    let found = if alphabet {
        buffer.clear();
        bytes_of_alphabet(text, buffer);
        vocab.find(buffer)
    } else {
        vocab.find(text)
    };
    found.ok_or_else(|| format!("names \"{}\", which is no token", text.escape_ascii()))
}

/// Undoes GPT-2's printable alphabet: token texts spell every byte as one visible character. Characters outside the
/// alphabet stand for themselves, and text that is not UTF-8 is taken as it is. Appends to `bytes`.
pub(crate) fn bytes_of_alphabet(text: &[u8], bytes: &mut Vec<u8>) {
    let Ok(text) = std::str::from_utf8(text) else {
        bytes.extend_from_slice(text);
        return;
    };
    for c in text.chars() {
        match byte_of_alphabet(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Writes bytes in GPT-2's printable alphabet.
pub(crate) fn push_alphabet(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        let code = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(*byte),
            0x00..=0x20 => 0x100 + u32::from(*byte),
            0x7f..=0xa0 => 0x121 + u32::from(*byte) - 0x7f,
            0xad => 0x143,
        };
        text.push(char::from_u32(code).expect("invariant: the alphabet lies below the surrogates"));
    }
}

/// The byte that a character of GPT-2's alphabet stands for. Visible Latin-1 characters are themselves; the others
/// (controls, space, soft hyphen) follow from U+0100 in the order of their bytes.
fn byte_of_alphabet(c: char) -> Option<u8> {
    let code = c as u32;
    Some(match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code as u8,
        0x100..=0x120 => (code - 0x100) as u8,
        0x121..=0x142 => (code - 0x121) as u8 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::vocab::TokenKind;

    fn strings(list: &[&str]) -> StringArray {
        let mut array = StringArray::default();
        for text in list {
            assert!(array.push(text.as_bytes()));
        }
        array
    }

    fn bytes_bpe(vocab: &Vocab, lines: &StringArray, ignore_merges: bool) -> Result<Bpe> {
        Bpe::from_lines(vocab, lines, Initial::Bytes, true, ignore_merges)
    }

    fn encode(bpe: &Bpe, vocab: &Vocab, text: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        bpe.encode(vocab, text, &mut Scratch::default(), &mut out);
        out
    }

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [false; 256];
        for code in 0..0x150 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of_alphabet) {
                assert!(!seen[usize::from(byte)], "byte {byte} twice");
                seen[usize::from(byte)] = true;
            }
        }
        assert!(seen.iter().all(|seen| *seen));
        let mut bytes = Vec::new();
        bytes_of_alphabet("ĠaĊ中".as_bytes(), &mut bytes);
        bytes_of_alphabet(b"\xff", &mut bytes);
        assert_eq!(bytes, b" a\n\xe4\xb8\xad\xff");
        let all: Vec<u8> = (0..=255).collect();
        let (mut spelled, mut back) = (String::new(), Vec::new());
        push_alphabet(&all, &mut spelled);
        bytes_of_alphabet(spelled.as_bytes(), &mut back);
        assert_eq!(back, all);
    }

    #[test]
    fn merges_go_by_rank_and_then_from_the_left() {
        let vocab =
            Vocab::new(strings(&["a", "b", "c", "ab", "bc", "aa", "abc"]), vec![TokenKind::Normal; 7]);
        let bpe = bytes_bpe(&vocab, &strings(&["b c", "a a", "a b", "ab c"]), false).expect("valid");
        assert_eq!(encode(&bpe, &vocab, b"abc"), [0, 4]);
        assert_eq!(encode(&bpe, &vocab, b"aaab"), [5, 3]);
        assert_eq!(encode(&bpe, &vocab, b""), [0u32; 0]);
        // No token stands for the middle byte.
        assert_eq!(encode(&bpe, &vocab, b"a?b"), [3]);
    }

    #[test]
    fn a_whole_word_hit_comes_first_when_merges_are_ignored() {
        let vocab = Vocab::new(strings(&["a", "b", "c", "bc", "abc"]), vec![TokenKind::Normal; 5]);
        let merges = strings(&["b c"]);
        let merged = bytes_bpe(&vocab, &merges, false).expect("valid");
        assert_eq!(encode(&merged, &vocab, b"abc"), [0, 3]);
        let whole = bytes_bpe(&vocab, &merges, true).expect("valid");
        assert_eq!(encode(&whole, &vocab, b"abc"), [4]);
    }

    #[test]
    fn bad_merges_are_named_with_their_index() {
        let vocab = Vocab::new(strings(&["a", "b", "ab"]), vec![TokenKind::Normal; 3]);
        for (line, what) in [("ab", "parted"), ("a x", "no token"), ("b a", "merges to"), ("a ", "no token")]
        {
            let error = bytes_bpe(&vocab, &strings(&["a b", line]), false).err().expect("must fail");
            assert_eq!(error.code(), ErrorCode::InvalidValue);
            assert_eq!(error.field(), Some("tokenizer.ggml.merges[1]"), "{line}");
            assert!(error.message().contains(what), "{line}: {error}");
        }
    }
}
