//! What bytes a token stands for.
//!
//! Principal type: [`Decoding`]. Every token is decoded by itself, so that a stream of tokens is a stream of text. Must
//! not know how text is encoded.

use std::borrow::Cow;

use super::spm::{SPACE, byte_of_token};
use super::vocab::TokenKind;
use crate::error::{Error, ErrorCode, Result};
use crate::formats::tokenizer_json::{Decoder, Pattern, PrependScheme};

/// How tokens become text.
#[derive(Debug, Default)]
pub(crate) struct Decoding {
    /// Literal replacements, in order.
    replace: Vec<(Box<str>, Box<str>)>,
    /// Special tokens stand as they are shown; only ordinary ones are changed.
    normal_only: bool,
    /// Tokens are words and parts of words.
    words: Option<Words>,
    /// A space that begins a text belongs to the encoding.
    pub(crate) drops_first_space: bool,
}

/// Words parted by spaces.
#[derive(Debug)]
struct Words {
    /// Begins the tokens that continue a word; without it, tokens that begin a word begin with [`SPACE`].
    continuing: Option<Box<str>>,
    /// No spaces before punctuation.
    cleanup: bool,
}

impl Decoding {
    /// Tokens are what they stand for.
    pub(crate) fn plain() -> Decoding {
        Decoding::default()
    }

    /// SentencePiece in GGUF: visible spaces become spaces.
    pub(crate) fn sentence_piece(space_prefix: bool) -> Decoding {
        Decoding {
            replace: vec![(SPACE.into(), " ".into())],
            normal_only: true,
            drops_first_space: space_prefix,
            ..Decoding::default()
        }
    }

    /// WordPiece in GGUF: tokens that begin a word begin with a visible space.
    pub(crate) fn phantom_spaces() -> Decoding {
        let words = Words { continuing: None, cleanup: true };
        Decoding { words: Some(words), drops_first_space: true, ..Decoding::default() }
    }

    /// The decoder of a tokenizer.json. Without one, tokens are joined by spaces.
    pub(crate) fn from_description(description: Option<&Decoder>) -> Result<Decoding> {
        let mut decoding = Decoding::default();
        match description {
            Some(decoder) => decoding.add(decoder, "decoder", &mut false)?,
            None => {
                decoding.words = Some(Words { continuing: Some("".into()), cleanup: false });
                decoding.drops_first_space = true;
            }
        }
        Ok(decoding)
    }

    fn add(&mut self, decoder: &Decoder, path: &str, fused: &mut bool) -> Result<()> {
        let unsupported = || {
            let message = format!("decoder {decoder:?} is not supported in this place");
            Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at(path))
        };
        match decoder {
            Decoder::Sequence(steps) => {
                for (index, step) in steps.iter().enumerate() {
                    self.add(step, &format!("{path}.decoders[{index}]"), fused)?;
                }
            }
            // The vocabulary is kept in bytes, and byte tokens are known by their kind.
            Decoder::ByteLevel | Decoder::ByteFallback => {}
            Decoder::Fuse => *fused = true,
            Decoder::Metaspace { replacement, scheme } => {
                self.replace.push((replacement.to_string().into(), " ".into()));
                self.drops_first_space = *scheme != PrependScheme::Never;
            }
            Decoder::WordPiece { prefix, cleanup } => {
                self.words = Some(Words { continuing: Some(prefix.as_str().into()), cleanup: *cleanup });
                self.drops_first_space = true;
            }
            Decoder::Strip { content: ' ', start, stop: 0 } if *fused && *start <= 1 => {
                self.drops_first_space |= *start == 1;
            }
            Decoder::Strip { start: 0, stop: 0, .. } => {}
            Decoder::Strip { .. } => return unsupported(),
            Decoder::Replace(Pattern::String(from), to) if !from.is_empty() => {
                self.replace.push((from.as_str().into(), to.as_str().into()));
            }
            Decoder::Replace(..) => return unsupported(),
        }
        Ok(())
    }

    /// What a token of this text and kind adds to a decoded text. The space before a word is part of it.
    pub(crate) fn bytes<'v>(&self, text: &'v [u8], kind: TokenKind) -> Cow<'v, [u8]> {
        if kind == TokenKind::Byte
            && let Some(byte) = byte_of_token(text)
        {
            return Cow::Owned(vec![byte]);
        }
        let Ok(spelled) = std::str::from_utf8(text) else {
            return Cow::Borrowed(text);
        };
        let mut out = Cow::Borrowed(spelled);
        if !(self.normal_only && kind != TokenKind::Normal) {
            for (from, to) in &self.replace {
                if out.contains(&**from) {
                    out = Cow::Owned(out.replace(&**from, to));
                }
            }
        }
        if let Some(words) = &self.words {
            out = Cow::Owned(words.spaced(&out, kind));
        }
        match out {
            Cow::Borrowed(same) => Cow::Borrowed(same.as_bytes()),
            Cow::Owned(changed) => Cow::Owned(changed.into_bytes()),
        }
    }
}

impl Words {
    fn spaced(&self, text: &str, kind: TokenKind) -> String {
        let continued = match &self.continuing {
            Some(prefix) if prefix.is_empty() => None,
            Some(prefix) => text.strip_prefix(&**prefix),
            None if kind == TokenKind::Normal && !text.starts_with(SPACE) => Some(text),
            None => None,
        };
        let spaced = match continued {
            Some(rest) => rest.to_string(),
            None => {
                format!(" {}", text.strip_prefix(SPACE).filter(|_| self.continuing.is_none()).unwrap_or(text))
            }
        };
        if self.cleanup { clean_up(&spaced) } else { spaced }
    }
}

/// The reference's removal of spaces, on one token and the space before it.
fn clean_up(text: &str) -> String {
    const REPLACED: &[(&str, &str)] = &[
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}
