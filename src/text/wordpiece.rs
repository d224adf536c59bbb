//! WordPiece: within each word the longest token that fits, again and again.
//!
//! Principal type: [`WordPiece`]. Must not know how text is cut into words.

use super::chars::char_at;
use super::vocab::Vocab;

/// Words longer than this are unknown whatever the file says: each is looked up from every character.
const MAX_CHARS: usize = 1000;

/// How tokens of words are spelled.
pub(crate) struct WordPiece {
    /// Stands for a word that cannot be spelled.
    pub(crate) unknown: Option<u32>,
    /// Begins the tokens that begin a word.
    pub(crate) first: Box<[u8]>,
    /// Begins the tokens that continue a word.
    pub(crate) continuing: Box<[u8]>,
    /// Longer words are unknown.
    pub(crate) max_chars: usize,
}

impl WordPiece {
    /// Appends the tokens of one word.
    pub(crate) fn encode(&self, vocab: &Vocab, word: &[u8], out: &mut Vec<u32>) {
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some((_, len)) = char_at(word, at) {
            at += len;
            ends.push(at);
        }
        let before = out.len();
        if ends.len() > self.max_chars.min(MAX_CHARS) || !self.spell(vocab, word, &ends, out) {
            out.truncate(before);
            out.extend(self.unknown);
        }
    }

    /// Whether the word could be spelled; `ends` are the ends of its characters.
    fn spell(&self, vocab: &Vocab, word: &[u8], ends: &[usize], out: &mut Vec<u32>) -> bool {
        let mut start = 0;
        let mut piece = Vec::with_capacity(word.len() + 4);
        while start < word.len() {
            let prefix = if start == 0 { &self.first } else { &self.continuing };
            let found = ends.iter().rev().take_while(|end| **end > start).find_map(|end| {
                piece.clear();
                piece.extend_from_slice(prefix);
                piece.extend_from_slice(&word[start..*end]);
                vocab.find_text(&piece).map(|id| (*end, id))
            });
            let Some((end, id)) = found else {
                return false;
            };
            out.push(id);
            start = end;
        }
        true
    }
}
