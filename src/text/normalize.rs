//! Changes of a text before it is cut: Unicode forms, case, accents, visible spaces.
//!
//! Principal type: [`Normalizer`]. Bytes that are not UTF-8 pass through, so that arbitrary bytes can be encoded. Must
//! not know vocabularies.

use std::borrow::Cow;

use super::chars::{Category, category_of, is_mark};
use super::charsmap::CharsMap;
use super::nfc::{Compatible, nfc, nfd};
use super::patterns::SPACES_IN_A_ROW;
use super::pretokenize::{Finder, regex_pattern, replace};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::tokenizer_json::{Normalizer as Description, Pattern};

/// What is done to a text, in order.
#[derive(Debug, Default)]
pub(crate) struct Normalizer {
    steps: Vec<Step>,
}

/// One change.
#[derive(Debug)]
pub(crate) enum Step {
    /// Unicode's form C.
    Nfc,
    /// Unicode's form D.
    Nfd,
    /// Unicode's forms KC and KD.
    Compatible(Compatible),
    Lowercase,
    /// Removes all combining marks.
    StripMarks,
    /// Removes non-spacing marks (after form D).
    StripAccents,
    /// Removes controls; makes every white space a space.
    CleanText,
    /// Puts spaces around ideographs.
    SpaceIdeographs,
    /// Goes in front, unless there is nothing.
    Prepend(Box<[u8]>),
    Replace {
        find: Finder,
        with: Box<[u8]>,
    },
    CharsMap(Box<CharsMap>),
    /// Removes white space at the ends.
    Trim {
        left: bool,
        right: bool,
    },
}

impl Normalizer {
    pub(crate) fn new(steps: Vec<Step>) -> Normalizer {
        Normalizer { steps }
    }

    /// The normaliser of a tokenizer.json.
    pub(crate) fn from_description(description: Option<&Description>) -> Result<Normalizer> {
        let mut steps = Vec::new();
        if let Some(description) = description {
            add_steps(description, "normalizer", &mut steps)?;
        }
        Ok(Normalizer { steps })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The text as the model wants it.
    pub(crate) fn apply<'t>(&self, bytes: &'t [u8]) -> Cow<'t, [u8]> {
        let mut text = Cow::Borrowed(bytes);
        for step in &self.steps {
            let changed = match step.apply(&text) {
                Cow::Borrowed(same) if same.len() == text.len() => continue,
                changed => changed.into_owned(),
            };
            text = Cow::Owned(changed);
        }
        text
    }
}

/// A visible space for every space, and one in front: what SentencePiece does to a text.
pub(crate) fn sentence_piece_steps(prefix: bool) -> Vec<Step> {
    let visible: Box<[u8]> = super::spm::SPACE.as_bytes().into();
    let mut steps = Vec::new();
    if prefix {
        steps.push(Step::Prepend(visible.clone()));
    }
    steps.push(Step::Replace { find: Finder::Literal(b" ".as_slice().into()), with: visible });
    steps
}

/// BERT's normalisation.
pub(crate) fn bert_steps(clean: bool, ideographs: bool, strip_accents: bool, lowercase: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if clean {
        steps.push(Step::CleanText);
    }
    if ideographs {
        steps.push(Step::SpaceIdeographs);
    }
    if strip_accents {
        steps.extend([Step::Nfd, Step::StripAccents]);
    }
    if lowercase {
        steps.push(Step::Lowercase);
    }
    steps
}

impl Step {
    /// No white space at the ends, and one space between words.
    pub(crate) fn single_spaces() -> [Step; 2] {
        let find = Finder::Pattern(SPACES_IN_A_ROW);
        [Step::Trim { left: true, right: true }, Step::Replace { find, with: b" ".as_slice().into() }]
    }

    /// The changed text; borrowed when nothing changes, or when only ends are cut off.
    fn apply<'t>(&self, bytes: &'t [u8]) -> Cow<'t, [u8]> {
        match self {
            Step::Nfc => nfc(bytes),
            Step::Compatible(form) => per_text(bytes, |text, out| out.push_str(&form.apply(text))),
            Step::Nfd => per_text(bytes, |text, out| out.push_str(&nfd(text))),
            Step::Lowercase => per_char(bytes, |c, out| out.extend(c.to_lowercase())),
            Step::StripMarks => per_char(bytes, |c, out| out.extend((!is_mark(c)).then_some(c))),
            Step::StripAccents => per_char(bytes, |c, out| {
                out.extend((category_of(c) != Category::NonspacingMark).then_some(c));
            }),
            Step::CleanText => per_char(bytes, |c, out| match c {
                '\t' | '\n' | '\r' => out.push(' '),
                // The rarer controls that are white space go too.
                char::REPLACEMENT_CHARACTER => {}
                c if is_control(c) => {}
                c if c.is_whitespace() => out.push(' '),
                c => out.push(c),
            }),
            Step::SpaceIdeographs => per_char(bytes, |c, out| {
                if is_ideograph(c) {
                    out.extend([' ', c, ' ']);
                } else {
                    out.push(c);
                }
            }),
            Step::Prepend(_) if bytes.is_empty() => Cow::Borrowed(bytes),
            Step::Prepend(prefix) => Cow::Owned([prefix, bytes].concat()),
            Step::Replace { find, with } => replace(bytes, find, with),
            Step::CharsMap(map) => Cow::Owned(map.apply(bytes)),
            Step::Trim { left, right } => Cow::Borrowed(trim(bytes, *left, *right)),
        }
    }
}

/// Applies `change` to what is UTF-8 and leaves the rest.
fn per_text(bytes: &[u8], change: impl Fn(&str, &mut String)) -> Cow<'_, [u8]> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut changed = String::new();
    for chunk in bytes.utf8_chunks() {
        changed.clear();
        change(chunk.valid(), &mut changed);
        out.extend_from_slice(changed.as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
    Cow::Owned(out)
}

fn per_char(bytes: &[u8], change: impl Fn(char, &mut String)) -> Cow<'_, [u8]> {
    per_text(bytes, |text, out| text.chars().for_each(|c| change(c, out)))
}

/// Without white space at the ends; bytes that are not UTF-8 are none.
fn trim(bytes: &[u8], left: bool, right: bool) -> &[u8] {
    let mut rest = bytes;
    if left && let Some(chunk) = rest.utf8_chunks().next() {
        let spaces = chunk.valid().len() - chunk.valid().trim_start().len();
        rest = &rest[spaces..];
    }
    if right
        && let Some(chunk) = rest.utf8_chunks().last()
        && chunk.invalid().is_empty()
    {
        let spaces = chunk.valid().len() - chunk.valid().trim_end().len();
        rest = &rest[..rest.len() - spaces];
    }
    rest
}

/// `\p{C}` without what is not assigned: controls, formats, private use.
fn is_control(c: char) -> bool {
    c.is_control()
        || category_of(c) == Category::Format
        || matches!(c as u32, 0xe000..=0xf8ff | 0xf_0000..=0xf_fffd | 0x10_0000..=0x10_fffd)
}

/// The blocks that BERT calls Chinese. One begins at U+2B920 and not, as it should, at U+2B820: so were the models
/// trained.
fn is_ideograph(c: char) -> bool {
    matches!(c as u32, 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x2_0000..=0x2_a6df | 0x2_a700..=0x2_b73f
        | 0x2_b740..=0x2_b81f | 0x2_b920..=0x2_ceaf | 0xf900..=0xfaff | 0x2_f800..=0x2_fa1f)
}

fn add_steps(description: &Description, path: &str, steps: &mut Vec<Step>) -> Result<()> {
    match description {
        Description::Sequence(list) => {
            for (index, step) in list.iter().enumerate() {
                add_steps(step, &format!("{path}.normalizers[{index}]"), steps)?;
            }
        }
        Description::Nfc => steps.push(Step::Nfc),
        Description::Nfd => steps.push(Step::Nfd),
        Description::Lowercase => steps.push(Step::Lowercase),
        Description::StripAccents => steps.push(Step::StripMarks),
        Description::Bert { clean_text, handle_chinese_chars, strip_accents, lowercase } => {
            steps.extend(bert_steps(*clean_text, *handle_chinese_chars, *strip_accents, *lowercase));
        }
        Description::Prepend(text) => steps.push(Step::Prepend(text.as_bytes().into())),
        Description::Replace(Pattern::String(text), _) if text.is_empty() => {}
        Description::Replace(pattern, content) => {
            let find = match pattern {
                Pattern::String(text) => Finder::Literal(text.as_bytes().into()),
                Pattern::Regex(regex) => Finder::Pattern(regex_pattern(regex, path)?),
            };
            steps.push(Step::Replace { find, with: content.as_bytes().into() });
        }
        Description::Precompiled(base64) => {
            if let Some(map) = CharsMap::from_base64(base64, path)? {
                steps.push(Step::CharsMap(Box::new(map)));
            }
        }
        Description::Strip { left, right } => steps.push(Step::Trim { left: *left, right: *right }),
        Description::Nfkc => steps.push(Step::Compatible(Compatible::new(true))),
        Description::Nfkd => steps.push(Step::Compatible(Compatible::new(false))),
        Description::ByteLevel => {
            let message = format!("normalizer {description:?} is not supported");
            return Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at(path));
        }
    }
    Ok(())
}
