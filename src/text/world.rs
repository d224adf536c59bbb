//! RWKV's World vocabulary: at every position the longest token, over bytes.
//!
//! Principal type: [`World`]. Token texts are Python literals (`'\n'`, `b'\xff'`). Must not know models.

use super::prefixes::Prefixes;
use super::vocab::Vocab;
use crate::error::Result;

/// The index of the tokens.
pub(crate) struct World {
    prefixes: Prefixes,
}

impl World {
    pub(crate) fn new(vocab: &Vocab, path: &str) -> Result<World> {
        let is_text = |id: u32| vocab.kind(id) == Some(super::vocab::TokenKind::Normal);
        Ok(World { prefixes: Prefixes::new(vocab, is_text, path)? })
    }

    /// Appends the tokens of `text`. A byte without a token is left out.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], out: &mut Vec<u32>) {
        let mut at = 0;
        while at < text.len() {
            let mut longest = None;
            self.prefixes.of(vocab, &text[at..], |len, id| longest = Some((len, id)));
            at += match longest {
                Some((len, id)) => {
                    out.push(id);
                    len
                }
                None => 1,
            };
        }
    }
}

/// A line of `rwkv_vocab.txt`: id, literal, length of what the literal stands for.
pub(crate) fn read_line(line: &str) -> Option<(u32, Vec<u8>)> {
    let (id, rest) = line.split_once(' ')?;
    let (literal, length) = rest.rsplit_once(' ')?;
    let bytes = unquote(literal)?;
    (bytes.len() == length.trim().parse::<usize>().ok()?).then_some((id.parse().ok()?, bytes))
}

/// The bytes of a Python literal.
fn unquote(literal: &str) -> Option<Vec<u8>> {
    let is_bytes = literal.starts_with('b');
    let text = literal.strip_prefix('b').unwrap_or(literal);
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    unescape(inner, is_bytes)
}

/// The bytes that text with Python's escapes stands for; in a literal of bytes `\xff` is a byte, else a character.
pub(crate) fn unescape(text: &str, is_bytes: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    let mut push = |code: u32| {
        if is_bytes {
            out.push(u8::try_from(code).ok()?);
        } else {
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Some(())
    };
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(c as u32)?;
            continue;
        }
        let code = match chars.next()? {
            'n' => 10,
            'r' => 13,
            't' => 9,
            'x' => hex(&mut chars, 2)?,
            'u' => hex(&mut chars, 4)?,
            c @ ('\\' | '\'' | '"') => c as u32,
            _ => return None,
        };
        push(code)?;
    }
    Some(out)
}

/// The next `digits` characters as a hexadecimal number.
fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0, |code, _| Some(code * 16 + chars.next()?.to_digit(16)?))
}
