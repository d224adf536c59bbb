//! Special tokens within text: a sorted list, narrowed byte by byte like a trie.
//!
//! Principal type: [`Specials`]. Must not know how the text between special tokens is encoded.

use super::chars::{char_at, char_before};
use super::patterns::is_word;
use super::vocab::{TokenKind, Vocab};

/// Special tokens that are matched literally, before the text is split.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    /// Sorted by text; texts are distinct and not empty.
    entries: Vec<Special>,
    /// Whether any entry begins with this byte: most positions of a text are dismissed by it.
    first: Vec<bool>,
}

/// One special token.
#[derive(Clone, Debug)]
pub(crate) struct Special {
    pub(crate) text: Box<[u8]>,
    pub(crate) id: u32,
    pub(crate) control: bool,
    /// Takes the white space before it along.
    pub(crate) lstrip: bool,
    /// Takes the white space after it along.
    pub(crate) rstrip: bool,
    /// Matches only where no word character touches it.
    pub(crate) single_word: bool,
}

impl Special {
    /// A token that matches literally.
    pub(crate) fn plain(text: &[u8], id: u32, control: bool) -> Special {
        Special { text: text.into(), id, control, lstrip: false, rstrip: false, single_word: false }
    }
}

impl Special {
    /// What the token takes of a text in which it stands at `at`, not before `from`; None where it may not match.
    fn taken(&self, text: &[u8], from: usize, at: usize) -> Option<std::ops::Range<usize>> {
        let (mut start, mut end) = (at, at + self.text.len());
        if self.single_word {
            let touches = |c: Option<char>| c.is_some_and(is_word);
            if touches(char_before(text, start)) || touches(char_at(text, end).map(|(c, _)| c)) {
                return None;
            }
        }
        while self.lstrip
            && start > from
            && let Some(c) = char_before(text, start).filter(|c| c.is_whitespace())
        {
            start -= c.len_utf8();
        }
        while self.rstrip
            && let Some((_, len)) = char_at(text, end).filter(|(c, _)| c.is_whitespace())
        {
            end += len;
        }
        Some(start.max(from)..end)
    }
}

/// How far the text at a position follows special tokens.
pub(crate) struct Walk<'s> {
    /// Bytes that agree with at least one of the accepted special tokens.
    pub(crate) depth: usize,
    /// The longest accepted special token that is there in full.
    pub(crate) longest: Option<&'s Special>,
}

impl Specials {
    /// Control and user-defined tokens of a vocabulary (the unknown token is matched too: it is a control in spirit).
    pub(crate) fn of(vocab: &Vocab) -> Specials {
        let mut entries = Vec::new();
        for (id, kind) in vocab.kinds().iter().enumerate() {
            let control = match kind {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => continue,
            };
            let text = vocab.text(id as u32).unwrap_or_default();
            if !text.is_empty() {
                entries.push(Special::plain(text, id as u32, control));
            }
        }
        Specials::new(entries)
    }

    /// The same, with tokens that take the white space after them along.
    pub(crate) fn taking_space_after(mut self, wanted: impl Fn(&[u8]) -> bool) -> Specials {
        for entry in &mut self.entries {
            entry.rstrip = wanted(&entry.text);
        }
        self
    }

    /// These tokens and others, by their names: what nobody's text may become.
    pub(crate) fn with(&self, others: &Specials, name: impl Fn(u32) -> String) -> Specials {
        let named = |entry: &Special| Special::plain(name(entry.id).as_bytes(), entry.id, entry.control);
        Specials::new(self.entries.iter().cloned().chain(others.entries.iter().map(named)).collect())
    }

    pub(crate) fn new(mut entries: Vec<Special>) -> Specials {
        entries.sort_unstable_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        entries.dedup_by(|later, earlier| later.text == earlier.text);
        let mut first = vec![false; 256];
        for entry in &entries {
            first[usize::from(entry.text[0])] = true;
        }
        Specials { entries, first }
    }

    pub(crate) fn entries(&self) -> &[Special] {
        &self.entries
    }

    /// Whether a special token may begin with `byte`.
    pub(crate) fn may_start(&self, byte: u8) -> bool {
        self.first.get(usize::from(byte)).copied().unwrap_or(false)
    }

    /// Follows `text` from its beginning along the special tokens that `accept` lets in.
    pub(crate) fn walk(&self, text: &[u8], accept: impl Fn(&Special) -> bool) -> Walk<'_> {
        let mut walk = Walk { depth: 0, longest: None };
        let mut live = &self.entries[..];
        for (at, byte) in text.iter().enumerate() {
            let from = live.partition_point(|entry| entry.text.get(at).is_none_or(|b| b < byte));
            live = &live[from..];
            let to = live.partition_point(|entry| entry.text.get(at) == Some(byte));
            live = &live[..to];
            // The list is short (tens, at most thousands) and shrinks at once, so a scan for `accept` is cheap.
            if !live.iter().any(&accept) {
                break;
            }
            walk.depth = at + 1;
            // Sorted, so the entry that ends here comes first.
            if live[0].text.len() == at + 1 && accept(&live[0]) {
                walk.longest = Some(&live[0]);
            }
        }
        walk
    }

    /// Next special token at or after `from`: its range in `text` and id, leftmost and then longest. With
    /// `controls` false only user-defined tokens match. None may begin at a position in `guards` (sorted).
    pub(crate) fn find(
        &self,
        text: &[u8],
        from: usize,
        controls: bool,
        guards: &[usize],
    ) -> Option<(std::ops::Range<usize>, u32)> {
        for at in from..text.len() {
            if !self.may_start(text[at]) || guards.binary_search(&at).is_ok() {
                continue;
            }
            let walk = self.walk(&text[at..], |entry| controls || !entry.control);
            if let Some(entry) = walk.longest
                && let Some(range) = entry.taken(text, from, at)
            {
                return Some((range, entry.id));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials() -> Specials {
        let texts = [("<|a|>", true), ("<|a|>b", true), ("<t>", false), ("  ", false)];
        let entry = |(i, (text, control)): (usize, &(&str, bool))| {
            Special::plain(text.as_bytes(), i as u32, *control)
        };
        Specials::new(texts.iter().enumerate().map(entry).collect())
    }

    #[test]
    fn the_leftmost_and_then_longest_wins() {
        let found = specials().find(b"x<|a|>b<t>", 0, true, &[]);
        assert_eq!(found, Some((1..7, 1)));
        assert_eq!(specials().find(b"x<|a|>b<t>", 2, true, &[]), Some((7..10, 2)));
    }

    #[test]
    fn guards_and_missing_consent_hide_tokens() {
        assert_eq!(specials().find(b"<|a|> <|a|>", 0, true, &[0]), Some((6..11, 0)));
        assert_eq!(specials().find(b"<|a|>", 0, false, &[]), None);
        assert_eq!(specials().find(b"<|a|>  ", 0, false, &[]), Some((5..7, 3)));
    }

    #[test]
    fn depth_tells_a_prefix_from_nothing() {
        assert_eq!(specials().walk(b"<|a", |_| true).depth, 3);
        assert_eq!(specials().walk(b"<|x", |_| true).depth, 2);
        assert_eq!(specials().walk(b"<|x", |entry| !entry.control).depth, 1);
    }
}
