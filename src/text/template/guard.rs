//! Keeps messages from forging special tokens without changing what the template sees.
//!
//! Principal type: [`Marks`]. Before rendering, the first character of every special token that a message spells is
//! replaced by a private-use character; afterwards it is put back, and its place in the prompt is one where no
//! special token may begin. One character stands for one character, so `trim`, `length`, `split`, `in`, slices and
//! JSON come out as without marks, however the template moves text about; and a template that looks for markup of
//! replies (`'</think>' in content`) finds it, because that is not marked in replies. Since a guard only forbids a
//! token to begin, the ids of all other text are those of the plain prompt.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::{Error, ErrorCode, Result};
use crate::text::specials::{Special, Specials};

/// Private-use characters of plane 15, from which marks are taken.
const MARKS: std::ops::RangeInclusive<u32> = 0xf_0000..=0xf_fffd;

/// A partial spelling this long is marked too, lest a template that cuts something out of the middle of a text
/// should complete it.
const PARTIAL: usize = 3;

/// Where a string comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An earlier reply: may hold the markup that the model itself writes (reasoning, tool calls), never control
    /// tokens.
    Assistant,
    /// Anybody: no special tokens at all, save those that are plain words or white space.
    Other,
}

/// What may be forged, fixed for a template.
pub(super) struct Guard {
    specials: Specials,
    /// First characters of the special tokens, without repetition.
    firsts: Vec<char>,
    /// Private-use characters in the template's own text.
    used: HashSet<char>,
}

/// Marks for one rendering: `firsts[i]` is written as the character `base + i`.
pub(super) struct Marks<'g> {
    guard: &'g Guard,
    base: u32,
}

impl Guard {
    pub(super) fn new(specials: Specials, template: &str) -> Guard {
        let mut firsts = Vec::new();
        for entry in specials.entries().iter().filter(|entry| is_markup(entry)) {
            if let Some(c) = first_char(&entry.text)
                && !firsts.contains(&c)
            {
                firsts.push(c);
            }
        }
        Guard { specials, firsts, used: private_use(template).collect() }
    }

    /// Chooses marks that occur in none of the strings.
    pub(super) fn marks_for(&self, strings: &[&str]) -> Result<Marks<'_>> {
        let mut used: HashSet<char> = strings.iter().flat_map(|text| private_use(text)).collect();
        used.extend(&self.used);
        let width = self.firsts.len() as u32;
        let free = |base: &u32| {
            (*base..base + width).all(|code| char::from_u32(code).is_some_and(|c| !used.contains(&c)))
        };
        let last = MARKS.end().saturating_sub(width);
        let base = (*MARKS.start()..=last).step_by(self.firsts.len().max(1)).find(free);
        let base = base.ok_or_else(|| {
            Error::new(ErrorCode::TemplateError, "the messages use every private-use character of plane 15")
        })?;
        Ok(Marks { guard: self, base })
    }
}

impl Marks<'_> {
    /// The string with the first character of every spelled special token replaced.
    pub(super) fn mark<'t>(&self, text: &'t str, source: Source) -> Cow<'t, str> {
        let bytes = text.as_bytes();
        let mut marked = String::new();
        let mut copied = 0;
        for (at, c) in text.char_indices() {
            if !self.guard.specials.may_start(bytes[at]) || !self.spells_special(&bytes[at..], source) {
                continue;
            }
            let Some(mark) = self.mark_of(c) else {
                continue;
            };
            marked.push_str(&text[copied..at]);
            marked.push(mark);
            copied = at + c.len_utf8();
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        marked.push_str(&text[copied..]);
        Cow::Owned(marked)
    }

    /// Whether a special token begins here: in full, or cut off by the end of the string (what follows in the prompt
    /// might complete it), or, outside replies, far enough to look like one.
    fn spells_special(&self, rest: &[u8], source: Source) -> bool {
        let forbidden = |entry: &Special| match source {
            Source::Assistant => entry.control && !is_reply_markup(&entry.text),
            Source::Other => is_markup(entry),
        };
        let walk = self.guard.specials.walk(rest, forbidden);
        let partial = source == Source::Other && walk.depth >= PARTIAL;
        walk.longest.is_some() || (walk.depth > 0 && walk.depth == rest.len()) || partial
    }

    fn mark_of(&self, c: char) -> Option<char> {
        let index = self.guard.firsts.iter().position(|first| *first == c)?;
        char::from_u32(self.base + index as u32)
    }

    /// Puts the first characters back; gives their byte offsets, ascending.
    pub(super) fn unmark(&self, rendered: &str) -> (String, Vec<usize>) {
        let mut text = String::with_capacity(rendered.len());
        let mut guards = Vec::new();
        for c in rendered.chars() {
            let index = (c as u32).checked_sub(self.base).map(|index| index as usize);
            match index.and_then(|index| self.guard.firsts.get(index)) {
                Some(first) => {
                    guards.push(text.len());
                    text.push(*first);
                }
                None => text.push(c),
            }
        }
        (text, guards)
    }
}

/// Whether a special token is structure of a prompt. Some vocabularies keep runs of spaces or plain words as
/// user-defined tokens; those must stay ordinary parts of anybody's text.
fn is_markup(entry: &Special) -> bool {
    let bracketed = matches!(
        (entry.text.first(), entry.text.last()),
        (Some(b'<'), Some(b'>')) | (Some(b'['), Some(b']'))
    );
    entry.control || bracketed
}

/// Markup that models write in their replies, and that comes back in the next turn. Some files call it control.
fn is_reply_markup(text: &[u8]) -> bool {
    let name = text.to_ascii_lowercase();
    ["think", "tool_call", "reason"].iter().any(|word| name.windows(word.len()).any(|w| w == word.as_bytes()))
}

fn first_char(text: &[u8]) -> Option<char> {
    std::str::from_utf8(text).ok()?.chars().next()
}

fn private_use(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| MARKS.contains(&(*c as u32)))
}
