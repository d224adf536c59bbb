//! Characters as the pre-tokenizers see them: a lenient UTF-8 cursor and the classes of the regexes.
//!
//! Principal type: [`CharClass`]. Must not know any tokenizer.

use super::unicode_tables::{LETTER, NUMBER, PUNCTUATION};

/// The classes that the splitting regexes tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CharClass {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// `[^\s\p{L}\p{N}]`
    Other,
}

/// The class of `c`.
pub(crate) fn class_of(c: char) -> CharClass {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => CharClass::Letter,
            '0'..='9' => CharClass::Number,
            ' ' | '\t'..='\r' => CharClass::Space,
            _ => CharClass::Other,
        };
    }
    // `\s` is the White_Space property, and so is `char::is_whitespace`.
    if c.is_whitespace() {
        CharClass::Space
    } else if contains(&LETTER, c) {
        CharClass::Letter
    } else if contains(&NUMBER, c) {
        CharClass::Number
    } else {
        CharClass::Other
    }
}

/// `\p{P}`.
pub(crate) fn is_punctuation(c: char) -> bool {
    contains(&PUNCTUATION, c)
}

fn contains(ranges: &[(u32, u32)], c: char) -> bool {
    let code = c as u32;
    let after = ranges.partition_point(|(first, _)| *first <= code);
    after > 0 && code <= ranges[after - 1].1
}

/// The character at byte `at` and its length in bytes. What is not UTF-8 counts as U+FFFD of the length of the
/// faulty sequence, so arbitrary bytes can be split without copying or failing. None at the end.
pub(crate) fn char_at(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((first as char, 1));
    }
    let window = &bytes[at..bytes.len().min(at + 4)];
    let chunk = window.utf8_chunks().next()?;
    Some(match chunk.valid().chars().next() {
        Some(c) => (c, c.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER, chunk.invalid().len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_bytes_advance_and_valid_chars_decode() {
        let bytes = "é你🦀".as_bytes();
        let mut at = 0;
        let mut seen = String::new();
        while let Some((c, len)) = char_at(bytes, at) {
            seen.push(c);
            at += len;
        }
        assert_eq!(seen, "é你🦀");
        assert_eq!(char_at(b"\xff\xfe", 0), Some((char::REPLACEMENT_CHARACTER, 1)));
        assert_eq!(char_at(b"\xf0\x9f\xa6", 0), Some((char::REPLACEMENT_CHARACTER, 3)));
        assert_eq!(char_at(b"a", 1), None);
    }

    #[test]
    fn classes_differ_from_std_where_the_regexes_do() {
        // A combining mark and a letter number are alphabetic to std, and neither is \p{L}.
        assert_eq!(class_of('\u{0345}'), CharClass::Other);
        assert_eq!(class_of('Ⅷ'), CharClass::Number);
        assert_eq!(class_of('\u{00a0}'), CharClass::Space);
        assert_eq!(class_of('\u{200b}'), CharClass::Other);
        assert_eq!(class_of('中'), CharClass::Letter);
        assert!(is_punctuation('。') && !is_punctuation('$'));
    }
}
