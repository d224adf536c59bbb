//! Refuses templates that nest deeper than the stack allows, before the engine parses them.
//!
//! Principal function: [`check_nesting`]. The engine bounds brackets and blocks itself, but parses and compiles chains
//! of operators, filters and `elif` recursively without a bound: 256 KiB of `not ` would overflow the stack of wasm,
//! which ends the module. Must not know what a template means.

/// Operators in one tag. Published templates have a few dozen.
const MAX_OPERATORS: usize = 500;
/// `elif` branches in a template.
const MAX_ELIF: usize = 200;

/// Words that build a deeper expression.
const OPERATOR_WORDS: &[&str] = &["not", "if", "else", "and", "or", "in", "is"];

/// The reason why a template is refused, if it is.
pub(super) fn check_nesting(source: &str) -> Result<(), String> {
    let mut rest = source;
    let mut n_elif = 0;
    while let Some(start) = rest.find('{') {
        rest = &rest[start + 1..];
        let close = match rest.as_bytes().first() {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                // A comment: nothing in it counts.
                rest = rest.find("#}").map_or("", |end| &rest[end..]);
                continue;
            }
            _ => continue,
        };
        let tag = Tag::scan(&rest[1..], close);
        if tag.n_operators > MAX_OPERATORS {
            return Err(format!(
                "a tag has {} operators, at most {MAX_OPERATORS} are accepted",
                tag.n_operators
            ));
        }
        n_elif += usize::from(tag.is_elif);
        if n_elif > MAX_ELIF {
            return Err(format!("more than {MAX_ELIF} elif branches"));
        }
        rest = &rest[1 + tag.len..];
    }
    Ok(())
}

/// What stands between the delimiters of a tag.
struct Tag {
    /// Bytes up to and without the closing delimiter.
    len: usize,
    n_operators: usize,
    is_elif: bool,
}

impl Tag {
    fn scan(text: &str, close: &str) -> Tag {
        let bytes = text.as_bytes();
        let mut tag = Tag { len: text.len(), n_operators: 0, is_elif: false };
        let mut first_word = true;
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                quote @ (b'\'' | b'"') => at = string_end(bytes, at, quote),
                _ if bytes[at..].starts_with(close.as_bytes()) => {
                    tag.len = at;
                    break;
                }
                c if c.is_ascii_alphabetic() || c == b'_' => {
                    let is_word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
                    let len = bytes[at..].iter().take_while(|c| is_word(c)).count();
                    let word = &text[at..at + len];
                    tag.n_operators += usize::from(OPERATOR_WORDS.contains(&word));
                    tag.is_elif |= first_word && word == "elif";
                    first_word = false;
                    at += len;
                }
                c => {
                    tag.n_operators += usize::from(b"+-*/%~|.[({<>=!".contains(&c));
                    at += 1;
                }
            }
        }
        tag
    }
}

/// Just after the string that begins at `at`.
fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_counted_outside_strings_and_comments() {
        let long = |part: &str| part.repeat(MAX_OPERATORS + 1);
        for refused in [
            format!("{{{{ {}1 }}}}", long("not ")),
            format!("{{{{ {}1 }}}}", long("-")),
            format!("{{% set x = 1{} %}}", long("+1")),
            format!("a {{{{ x{} }}}}", long("|trim")),
            format!("{{% if x %}}{}{{% endif %}}", "{%- elif y %}".repeat(MAX_ELIF + 1)),
        ] {
            assert!(check_nesting(&refused).is_err(), "{}", &refused[..40]);
        }
        for fine in [
            format!("{{{{ '{}' }}}}", long("not ")),
            format!("{{{{ \"\\\"{}\" }}}}", long("+")),
            format!("{{# {} #}}{{{{ x }}}}", long("-")),
            format!("{} {{ {}", long("+"), long("-")),
            "{{ x + 1 }}".repeat(MAX_OPERATORS + 1),
            format!("{{{{ [{}] }}}}", long("1, ")),
            "{{ 'unterminated".to_string(),
            "{% é }} {{".to_string(),
        ] {
            assert_eq!(check_nesting(&fine), Ok(()), "{}", fine.chars().take(40).collect::<String>());
        }
    }
}
