//! SentencePiece's precompiled table of replacements: a double-array trie over UTF-8 and the texts it leads to.
//!
//! Principal type: [`CharsMap`]. At every character the longest entry is replaced, as SentencePiece does it; tables from a
//! tokenizer.json are applied as Hugging Face does it, character by character, and to a short cluster of a character and
//! its marks as one. Must not know what the text is for.

use super::chars::{Category, category_of, char_at, is_mark};
use crate::error::{Error, ErrorCode, Result};

/// The longest chain of bytes that is followed in the trie.
const MAX_KEY: usize = 64;

/// The table.
#[derive(Debug)]
pub(crate) struct CharsMap {
    /// Units of a darts-clone double array: a label or a value, a flag and an offset, packed.
    units: Vec<u32>,
    /// The replacements, each ended by a zero byte.
    texts: Vec<u8>,
    /// By clusters, as Hugging Face does it.
    by_clusters: bool,
}

/// Clusters as long as this are taken character by character.
const LONG_CLUSTER: usize = 6;

impl CharsMap {
    /// Reads base64; None for an empty table.
    pub(crate) fn from_base64(text: &str, path: &str) -> Result<Option<CharsMap>> {
        let bytes = decode_base64(text).ok_or_else(|| fault("is not base64", path))?;
        let map = CharsMap::from_bytes(&bytes, path)?;
        Ok(map.map(|map| CharsMap { by_clusters: true, ..map }))
    }

    /// Reads the table: the length of the trie in bytes, the trie, the replacements.
    pub(crate) fn from_bytes(bytes: &[u8], path: &str) -> Result<Option<CharsMap>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let short = || fault("ends before its trie does", path);
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize / 4 * 4;
        let (trie, texts) = rest.split_at_checked(length).ok_or_else(short)?;
        let unit = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("invariant: chunks of four"));
        Ok(Some(CharsMap {
            units: trie.chunks_exact(4).map(unit).collect(),
            texts: texts.to_vec(),
            by_clusters: false,
        }))
    }

    /// `bytes` with everything replaced that is in the table.
    pub(crate) fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 8);
        let mut at = 0;
        while let Some((_, len)) = char_at(bytes, at) {
            let found = match self.by_clusters {
                true => self.cluster(&bytes[at..], len),
                false => self.entry(&bytes[at..], true),
            };
            let (taken, text) = found.unwrap_or((len, &bytes[at..at + len]));
            out.extend_from_slice(text);
            at += taken;
        }
        out
    }

    /// What becomes of the character of `len` bytes that `bytes` begins with, or of the short cluster that it begins.
    /// The reference takes the shortest entry for the whole cluster.
    fn cluster(&self, bytes: &[u8], len: usize) -> Option<(usize, &[u8])> {
        let end = cluster_end(bytes, len);
        if end < LONG_CLUSTER
            && let Some((_, text)) = self.entry(&bytes[..end], false)
        {
            return Some((end, text));
        }
        self.entry(&bytes[..len], false)
    }

    /// The longest or the shortest entry that `bytes` begins with: its length and its replacement.
    fn entry(&self, bytes: &[u8], longest: bool) -> Option<(usize, &[u8])> {
        let mut found = None;
        let mut node = offset(*self.units.first()?);
        for (at, byte) in bytes.iter().take(MAX_KEY).enumerate() {
            node ^= usize::from(*byte);
            let Some(unit) = self.units.get(node).filter(|unit| label(**unit) == u32::from(*byte)) else {
                break;
            };
            node ^= offset(*unit);
            if *byte != 0 && unit >> 8 & 1 == 1 {
                let value = self.units.get(node).map(|unit| unit & 0x7fff_ffff);
                found = value.map(|value| (at + 1, value as usize));
                if !longest {
                    break;
                }
            }
        }
        let (len, start) = found?;
        let text = self.texts.get(start..)?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Some((len, &text[..end]))
    }
}

/// End of the character of `len` bytes at the beginning and the marks that belong to it.
fn cluster_end(bytes: &[u8], len: usize) -> usize {
    if bytes.starts_with(b"\r\n") {
        return 2;
    }
    let mut end = len;
    let takes_marks =
        char_at(bytes, 0).is_some_and(|(c, _)| !c.is_control() && category_of(c) != Category::Format);
    while takes_marks
        && end < LONG_CLUSTER
        && let Some((c, len)) = char_at(bytes, end)
        && (is_mark(c) || matches!(c as u32, 0x200c..=0x200d | 0xff9e..=0xff9f | 0x1_f3fb..=0x1_f3ff))
    {
        end += len;
    }
    end
}

fn label(unit: u32) -> u32 {
    unit & 0x8000_00ff
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

fn fault(what: &str, path: &str) -> Error {
    Error::new(ErrorCode::InvalidValue, format!("the table of replacements {what}")).at(path)
}

/// Standard base64, padded or not.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            out.push((bits >> n_bits) as u8);
        }
    }
    Some(out)
}
