//! Unicode's normalisation forms, for the models that were trained on normalised text (Qwen 2, StableLM 2, BERT).
//!
//! Principal functions: [`nfc`], [`nfd`]; principal type: [`Compatible`]. Must not know tokenizers. `é` may come as one character or as e and an accent; without
//! this step the two are other tokens than the ones that the model has learnt.

use std::borrow::Cow;

use super::nfc_tables::{COMBINING, COMPOSITIONS, DECOMPOSITIONS};
use super::nfkc_tables::{COMPATIBLE, COMPATIBLE_TEXT};

/// Below this character every text is in form C.
const FIRST_SUBJECT: char = '\u{300}';

const HANGUL: u32 = 0xac00;
const LEADS: u32 = 0x1100;
const VOWELS: u32 = 0x1161;
/// One before the first trailing consonant: 0 stands for none.
const TRAILS: u32 = 0x11a7;
const N_LEADS: u32 = 19;
const N_VOWELS: u32 = 21;
const N_TRAILS: u32 = 28;

/// `bytes` in form C; faulty UTF-8 passes through and parts what it stands between.
pub(crate) fn nfc(bytes: &[u8]) -> Cow<'_, [u8]> {
    let subject = |chunk: std::str::Utf8Chunk<'_>| chunk.valid().chars().any(|c| c >= FIRST_SUBJECT);
    if !bytes.utf8_chunks().any(subject) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(normalize(chunk.valid()).as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
    Cow::Owned(out)
}

fn normalize(text: &str) -> String {
    compose(&ordered(decomposed(text)))
}

/// `text` in form D.
pub(crate) fn nfd(text: &str) -> String {
    ordered(decomposed(text)).into_iter().map(|(c, _)| c).collect()
}

/// The forms KC and KD, with the places of the compatibility decompositions.
#[derive(Debug)]
pub(crate) struct Compatible {
    /// Where the decomposition of each entry of the table begins.
    starts: Vec<u32>,
    /// KC and not KD.
    composes: bool,
}

impl Compatible {
    pub(crate) fn new(composes: bool) -> Compatible {
        let mut at = 0;
        let start = |[entry]: &[u32; 1]| {
            let start = at;
            at += entry & 63;
            start
        };
        Compatible { starts: COMPATIBLE.iter().map(start).collect(), composes }
    }

    /// `text` in this form.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut chars = Vec::with_capacity(text.len());
        for c in text.chars() {
            match self.decomposition(c) {
                Some(text) => chars.extend(text.chars().map(|c| (c, class(c)))),
                None => decompose(c, &mut chars),
            }
        }
        let chars = ordered(chars);
        if self.composes { compose(&chars) } else { chars.into_iter().map(|(c, _)| c).collect() }
    }

    fn decomposition(&self, c: char) -> Option<&'static str> {
        let at = COMPATIBLE.binary_search_by_key(&(c as u32), |[entry]| entry >> 6).ok()?;
        let start = self.starts[at] as usize;
        COMPATIBLE_TEXT.get(start..start + (COMPATIBLE[at][0] & 63) as usize)
    }
}

fn decomposed(text: &str) -> Vec<(char, u8)> {
    let mut chars: Vec<(char, u8)> = Vec::with_capacity(text.len());
    for c in text.chars() {
        decompose(c, &mut chars);
    }
    chars
}

fn ordered(mut chars: Vec<(char, u8)>) -> Vec<(char, u8)> {
    order(&mut chars);
    chars
}

/// Appends the full canonical decomposition of `c` with combining classes.
fn decompose(c: char, out: &mut Vec<(char, u8)>) {
    let code = c as u32;
    if let Some(index) = code.checked_sub(HANGUL).filter(|index| *index < N_LEADS * N_VOWELS * N_TRAILS) {
        let parts = [
            LEADS + index / (N_VOWELS * N_TRAILS),
            VOWELS + index / N_TRAILS % N_VOWELS,
            TRAILS + index % N_TRAILS,
        ];
        let used = if parts[2] == TRAILS { 2 } else { 3 };
        out.extend(parts[..used].iter().map(|part| (to_char(*part), 0)));
        return;
    }
    if c >= '\u{c0}'
        && let Ok(at) = DECOMPOSITIONS.binary_search_by_key(&code, |[whole, ..]| *whole)
    {
        let [_, first, second] = DECOMPOSITIONS[at];
        // Only the first part may decompose further, at most three levels deep.
        decompose(to_char(first), out);
        if second != 0 {
            decompose(to_char(second), out);
        }
        return;
    }
    out.push((c, class(c)));
}

/// Sorts each run of combining characters by class, keeping the order of equals.
fn order(chars: &mut [(char, u8)]) {
    let mut rest = chars;
    while let Some(start) = rest.iter().position(|(_, class)| *class != 0) {
        let run = rest[start..].iter().take_while(|(_, class)| *class != 0).count();
        rest[start..start + run].sort_by_key(|(_, class)| *class);
        rest = &mut rest[start + run..];
    }
}

/// Joins each character with the last starter before it, unless one of the same or a higher class stands between.
fn compose(chars: &[(char, u8)]) -> String {
    let mut out: Vec<char> = Vec::with_capacity(chars.len());
    let mut starter: Option<usize> = None;
    let mut blocked_by: Option<u8> = None;
    for (c, class) in chars {
        if let Some(at) = starter
            && blocked_by.is_none_or(|between| between < *class)
            && let Some(whole) = composition(out[at], *c)
        {
            out[at] = whole;
            continue;
        }
        if *class == 0 {
            starter = Some(out.len());
            blocked_by = None;
        } else {
            blocked_by = Some(*class);
        }
        out.push(*c);
    }
    out.into_iter().collect()
}

/// The character that a pair composes to.
fn composition(first: char, second: char) -> Option<char> {
    let (a, b) = (first as u32, second as u32);
    if (LEADS..LEADS + N_LEADS).contains(&a) && (VOWELS..VOWELS + N_VOWELS).contains(&b) {
        return char::from_u32(HANGUL + ((a - LEADS) * N_VOWELS + (b - VOWELS)) * N_TRAILS);
    }
    let syllable = a.wrapping_sub(HANGUL);
    let open = syllable < N_LEADS * N_VOWELS * N_TRAILS && syllable.is_multiple_of(N_TRAILS);
    if open && (TRAILS + 1..TRAILS + N_TRAILS).contains(&b) {
        return char::from_u32(a + (b - TRAILS));
    }
    let parts = |[index]: &[u32; 1]| {
        let [_, first, second] = DECOMPOSITIONS[*index as usize];
        (first, second)
    };
    let at = COMPOSITIONS.binary_search_by_key(&(a, b), parts).ok()?;
    char::from_u32(DECOMPOSITIONS[COMPOSITIONS[at][0] as usize][0])
}

/// The canonical combining class.
fn class(c: char) -> u8 {
    let code = c as u32;
    let after = COMBINING.partition_point(|[first, ..]| *first <= code);
    match after.checked_sub(1).map(|at| COMBINING[at]) {
        Some([_, last, class]) if code <= last => class as u8,
        _ => 0,
    }
}

fn to_char(code: u32) -> char {
    char::from_u32(code).expect("invariant: the tables hold characters")
}
