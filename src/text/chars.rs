//! Characters as the pre-tokenizers see them: a lenient UTF-8 cursor and the classes of the regexes.
//!
//! Principal type: [`CharClass`]. Must not know any tokenizer.

use super::unicode_tables::CATEGORIES;

/// The classes that the splitting regexes tell apart most.
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

/// General categories, as far as anybody here tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Category {
    /// `\p{Lu}`
    Capital,
    /// `\p{Ll}`
    Small,
    /// `\p{Lt}`
    Title,
    /// `\p{Lm}` and `\p{Lo}`
    OtherLetter,
    /// `\p{Mn}`
    NonspacingMark,
    /// `\p{Mc}` and `\p{Me}`
    OtherMark,
    /// `\p{Nd}` and `\p{Nl}`
    Number,
    /// `\p{No}`
    OtherNumber,
    /// `\p{P}`
    Punctuation,
    /// `\p{S}`
    Symbol,
    /// `\p{Cf}`
    Format,
    /// Everything else.
    Other,
}

/// The general category of `c`.
pub(crate) fn category_of(c: char) -> Category {
    let code = c as u32;
    // An entry is `first << 4 | category`, so this finds the last one whose first is at most `code`.
    let after = CATEGORIES.partition_point(|[entry]| *entry <= (code << 4 | 15));
    let Some([entry]) = after.checked_sub(1).map(|at| CATEGORIES[at]) else {
        return Category::Other;
    };
    let even = code.is_multiple_of(2);
    match entry & 15 {
        1 => Category::Capital,
        2 => Category::Small,
        3 => Category::Title,
        4 => Category::OtherLetter,
        5 => Category::NonspacingMark,
        6 => Category::OtherMark,
        7 => Category::Number,
        8 => Category::Punctuation,
        9 => Category::Symbol,
        10 => Category::Format,
        11 if even => Category::Capital,
        12 if !even => Category::Capital,
        11 | 12 => Category::Small,
        13 => Category::OtherNumber,
        _ => Category::Other,
    }
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
        return CharClass::Space;
    }
    match category_of(c) {
        Category::Capital | Category::Small | Category::Title | Category::OtherLetter => CharClass::Letter,
        Category::Number | Category::OtherNumber => CharClass::Number,
        _ => CharClass::Other,
    }
}

/// `\p{M}`.
pub(crate) fn is_mark(c: char) -> bool {
    matches!(category_of(c), Category::NonspacingMark | Category::OtherMark)
}

/// `\p{P}`.
pub(crate) fn is_punctuation(c: char) -> bool {
    category_of(c) == Category::Punctuation
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

/// The character that ends just before byte `at`; None at the beginning and after bytes that are not UTF-8.
pub(crate) fn char_before(bytes: &[u8], at: usize) -> Option<char> {
    // The window may begin within a character; its last one is whole.
    let last = bytes[at.saturating_sub(4)..at].utf8_chunks().last()?;
    if last.invalid().is_empty() { last.valid().chars().next_back() } else { None }
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
