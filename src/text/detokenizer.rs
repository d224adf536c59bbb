//! Token ids to text, one at a time, without ever splitting a character.
//!
//! Principal type: [`Detokenizer`]. Must not know how ids were chosen or when to stop.

use super::tokenizer::Tokenizer;

/// Turns a stream of token ids into a stream of text. A character whose bytes come in several tokens is held back
/// until it is whole; U+FFFD appears only for bytes that no continuation can make valid.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    /// Bytes not yet given out: the beginning of a character, at most 3 bytes between calls.
    pending: Vec<u8>,
    /// The next text begins with a space that belongs to the encoding and not to the text.
    drop_space: bool,
    show_special: bool,
}

impl Detokenizer {
    /// For ids that stand at the beginning of a text, as a reply does: SentencePiece's leading space is dropped.
    pub fn new(tokenizer: &Tokenizer) -> Detokenizer {
        Detokenizer { pending: Vec::new(), drop_space: tokenizer.has_space_prefix(), show_special: false }
    }

    /// For ids that continue a text: a leading space is part of it.
    pub fn continuing() -> Detokenizer {
        Detokenizer { pending: Vec::new(), drop_space: false, show_special: false }
    }

    /// The same, giving out the names of control tokens too.
    pub fn showing_special(mut self) -> Detokenizer {
        self.show_special = true;
        self
    }

    /// Takes the next id; gives the text that is now certain. An id outside the vocabulary is no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_special(id) && !self.show_special {
            return String::new();
        }
        let bytes = tokenizer.token_bytes(id);
        let mut bytes = bytes.as_ref();
        // Only the very first space: one after a token that is shown stands between the two.
        if self.drop_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drop_space = false;
        }
        self.pending.extend_from_slice(bytes);
        self.take(false)
    }

    /// The rest, when no more ids come: a character left incomplete becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> String {
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("invariant: valid up to here"));
                    rest = after;
                    match error.error_len() {
                        Some(len) => rest = &after[len..],
                        None if all => rest = &[],
                        // Incomplete, and more may come.
                        None => break,
                    }
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}
