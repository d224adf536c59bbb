//! The small sections of a `tokenizer.json` as closed enums.
//!
//! Principal trait: `Section`. Must not know what the sections do to text.

use serde_json::{Map, Value as Json};

use crate::error::{Error, ErrorCode, Result};

/// Sequences of sequences deeper than this are refused.
const MAX_DEPTH: usize = 8;
/// More steps in one sequence than any tokenizer has.
const MAX_STEPS: usize = 64;

/// What is looked for in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The text itself.
    String(String),
    /// What a regular expression matches.
    Regex(String),
}

/// A change of the text before it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalizer {
    /// One after the other.
    Sequence(Vec<Normalizer>),
    /// Unicode's form C.
    Nfc,
    /// Unicode's form D.
    Nfd,
    /// Unicode's form KC.
    Nfkc,
    /// Unicode's form KD.
    Nfkd,
    /// Lower case.
    Lowercase,
    /// Removes non-spacing marks.
    StripAccents,
    /// What BERT does.
    Bert {
        /// Removes control characters and makes every white space a space.
        clean_text: bool,
        /// Puts spaces around ideographs.
        handle_chinese_chars: bool,
        /// Removes accents.
        strip_accents: bool,
        /// Makes lower case.
        lowercase: bool,
    },
    /// Puts a text in front, unless there is nothing.
    Prepend(String),
    /// Replaces every match.
    Replace(Pattern, String),
    /// SentencePiece's table of replacements, as the file has it (base64).
    Precompiled(String),
    /// Removes white space at the ends.
    Strip {
        /// At the beginning.
        left: bool,
        /// At the end.
        right: bool,
    },
    /// Writes every byte as a character of GPT-2's alphabet.
    ByteLevel,
}

/// What becomes of the matches of a splitting pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// They are left out.
    Removed,
    /// Each is a piece.
    Isolated,
    /// Each joins what stands before it.
    MergedWithPrevious,
    /// Each joins what stands after it.
    MergedWithNext,
    /// Neighbouring matches are one piece.
    Contiguous,
}

/// Where Metaspace puts a space in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrependScheme {
    /// Before the whole text.
    First,
    /// Nowhere.
    Never,
    /// Before every piece.
    Always,
}

/// A way to cut text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreTokenizer {
    /// One after the other, each on the pieces of the one before.
    Sequence(Vec<PreTokenizer>),
    /// GPT-2's: bytes as an alphabet.
    ByteLevel {
        /// A space goes before a piece that has none.
        add_prefix_space: bool,
        /// Cut with GPT-2's regular expression.
        use_regex: bool,
    },
    /// At the matches of a pattern.
    Split {
        /// What is looked for.
        pattern: Pattern,
        /// What becomes of it.
        behavior: Behavior,
        /// What does not match counts as match and the other way round.
        invert: bool,
    },
    /// At digits.
    Digits {
        /// Each on its own.
        individual: bool,
    },
    /// SentencePiece's: spaces are written as a visible character.
    Metaspace {
        /// That character.
        replacement: char,
        /// Where one is put in front.
        scheme: PrependScheme,
        /// Cut before every one.
        split: bool,
    },
    /// At white space, which is removed, and punctuation.
    Bert,
    /// Words and runs of symbols.
    Whitespace,
    /// At white space, which is removed.
    WhitespaceSplit,
    /// At punctuation.
    Punctuation(Behavior),
}

/// Tokens around a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostProcessor {
    /// One after the other.
    Sequence(Vec<PostProcessor>),
    /// Ids before and after a text.
    Template {
        /// Before.
        before: Vec<u32>,
        /// After.
        after: Vec<u32>,
    },
    /// Concerns offsets only.
    ByteLevel,
}

/// A step from tokens to text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// One after the other.
    Sequence(Vec<Decoder>),
    /// GPT-2's alphabet to bytes.
    ByteLevel,
    /// SentencePiece's visible spaces to spaces.
    Metaspace {
        /// The visible space.
        replacement: char,
        /// Where the encoding has put one in front.
        scheme: PrependScheme,
    },
    /// Words parted by spaces.
    WordPiece {
        /// Marks pieces that do not begin a word.
        prefix: String,
        /// No spaces before punctuation.
        cleanup: bool,
    },
    /// `<0x0A>` to bytes.
    ByteFallback,
    /// All tokens as one text.
    Fuse,
    /// Removes characters at the ends.
    Strip {
        /// The character.
        content: char,
        /// At most so many at the beginning.
        start: usize,
        /// At most so many at the end.
        stop: usize,
    },
    /// Replaces every match.
    Replace(Pattern, String),
}

/// A section: nothing, or an object whose `type` says what it is.
pub(super) trait Section: Sized {
    /// What the section is, for messages.
    const WHAT: &'static str;
    /// The key of a sequence's list.
    const LIST: &'static str;

    fn sequence(steps: Vec<Self>) -> Self;

    /// Reads everything but a sequence; None for a type that is not known.
    fn read_one(kind: &str, fields: &Fields<'_>) -> Result<Option<Self>>;

    fn read(value: &Json, path: &str) -> Result<Option<Self>> {
        if value.is_null() {
            return Ok(None);
        }
        Self::read_nested(value, path, 0).map(Some)
    }

    fn read_nested(value: &Json, path: &str, depth: usize) -> Result<Self> {
        let fields = Fields { map: value.as_object().ok_or_else(|| malformed("an object", path))?, path };
        let kind = fields.str("type")?;
        if kind == "Sequence" {
            let path = format!("{path}.{}", Self::LIST);
            let steps = fields.map.get(Self::LIST).and_then(Json::as_array);
            let steps = steps.ok_or_else(|| malformed("a list", &path))?;
            if depth >= MAX_DEPTH || steps.len() > MAX_STEPS {
                let message = format!("over {MAX_STEPS} steps or {MAX_DEPTH} sequences in each other");
                return Err(Error::new(ErrorCode::LimitExceeded, message).at(path));
            }
            let read = |(i, step)| Self::read_nested(step, &format!("{path}[{i}]"), depth + 1);
            return Ok(Self::sequence(steps.iter().enumerate().map(read).collect::<Result<_>>()?));
        }
        Self::read_one(kind, &fields)?.ok_or_else(|| {
            let message = format!("{} \"{kind}\" is not supported", Self::WHAT);
            Error::new(ErrorCode::UnsupportedTokenizer, message).at(path)
        })
    }
}

fn malformed(needs: &str, path: &str) -> Error {
    Error::new(ErrorCode::Malformed, format!("needs {needs}")).at(path)
}

/// The fields of a section and where it stands.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Json>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn str(&self, key: &str) -> Result<&'a str> {
        self.map.get(key).and_then(Json::as_str).ok_or_else(|| malformed("a text", &self.at(key)))
    }

    fn string(&self, key: &str) -> Result<String> {
        self.str(key).map(str::to_string)
    }

    fn char(&self, key: &str) -> Result<char> {
        let mut chars = self.str(key)?.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => Err(malformed("one character", &self.at(key))),
        }
    }

    fn bool(&self, key: &str, default: bool) -> Result<bool> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| malformed("true or false", &self.at(key))),
        }
    }

    fn count(&self, key: &str) -> Result<usize> {
        let count = self.map.get(key).and_then(Json::as_u64);
        let count = count.and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| malformed("a count", &self.at(key)))
    }

    fn id(value: Option<&Json>) -> Option<u32> {
        value.and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok())
    }

    fn pattern(&self) -> Result<Pattern> {
        let pattern = self.map.get("pattern");
        let text = |name: &str| pattern.and_then(|value| value.get(name)).and_then(Json::as_str);
        match (text("String"), text("Regex")) {
            (Some(text), _) => Ok(Pattern::String(text.to_string())),
            (None, Some(regex)) => Ok(Pattern::Regex(regex.to_string())),
            (None, None) => Err(malformed("a String or a Regex", &self.at("pattern"))),
        }
    }

    fn behavior(&self) -> Result<Behavior> {
        Ok(match self.str("behavior")? {
            "Removed" => Behavior::Removed,
            "Isolated" => Behavior::Isolated,
            "MergedWithPrevious" => Behavior::MergedWithPrevious,
            "MergedWithNext" => Behavior::MergedWithNext,
            "Contiguous" => Behavior::Contiguous,
            other => {
                let message = format!("behavior \"{other}\" is not known");
                return Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at(self.at("behavior")));
            }
        })
    }

    fn scheme(&self) -> Result<PrependScheme> {
        // Old files have a flag instead.
        if self.map.get("prepend_scheme").is_none_or(Json::is_null) {
            let prefix = self.bool("add_prefix_space", true)?;
            return Ok(if prefix { PrependScheme::Always } else { PrependScheme::Never });
        }
        Ok(match self.str("prepend_scheme")? {
            "first" => PrependScheme::First,
            "never" => PrependScheme::Never,
            "always" => PrependScheme::Always,
            other => {
                let message = format!("prepend scheme \"{other}\" is not known");
                let error = Error::new(ErrorCode::UnsupportedTokenizer, message);
                return Err(error.at(self.at("prepend_scheme")));
            }
        })
    }
}

impl Section for Normalizer {
    const WHAT: &'static str = "normalizer";
    const LIST: &'static str = "normalizers";

    fn sequence(steps: Vec<Self>) -> Self {
        Normalizer::Sequence(steps)
    }

    fn read_one(kind: &str, fields: &Fields<'_>) -> Result<Option<Self>> {
        Ok(Some(match kind {
            "NFC" => Normalizer::Nfc,
            "NFD" => Normalizer::Nfd,
            "NFKC" => Normalizer::Nfkc,
            "NFKD" => Normalizer::Nfkd,
            "Lowercase" => Normalizer::Lowercase,
            "StripAccents" => Normalizer::StripAccents,
            "BertNormalizer" => {
                let lowercase = fields.bool("lowercase", true)?;
                Normalizer::Bert {
                    clean_text: fields.bool("clean_text", true)?,
                    handle_chinese_chars: fields.bool("handle_chinese_chars", true)?,
                    strip_accents: fields.bool("strip_accents", lowercase)?,
                    lowercase,
                }
            }
            "Prepend" => Normalizer::Prepend(fields.string("prepend")?),
            "Replace" => Normalizer::Replace(fields.pattern()?, fields.string("content")?),
            "Precompiled" => Normalizer::Precompiled(fields.string("precompiled_charsmap")?),
            "Strip" => Normalizer::Strip {
                left: fields.bool("strip_left", true)?,
                right: fields.bool("strip_right", true)?,
            },
            "ByteLevel" => Normalizer::ByteLevel,
            _ => return Ok(None),
        }))
    }
}

impl Section for PreTokenizer {
    const WHAT: &'static str = "pre-tokenizer";
    const LIST: &'static str = "pretokenizers";

    fn sequence(steps: Vec<Self>) -> Self {
        PreTokenizer::Sequence(steps)
    }

    fn read_one(kind: &str, fields: &Fields<'_>) -> Result<Option<Self>> {
        Ok(Some(match kind {
            "ByteLevel" => PreTokenizer::ByteLevel {
                add_prefix_space: fields.bool("add_prefix_space", true)?,
                use_regex: fields.bool("use_regex", true)?,
            },
            "Split" => PreTokenizer::Split {
                pattern: fields.pattern()?,
                behavior: fields.behavior()?,
                invert: fields.bool("invert", false)?,
            },
            "Digits" => PreTokenizer::Digits { individual: fields.bool("individual_digits", false)? },
            "Metaspace" => PreTokenizer::Metaspace {
                replacement: fields.char("replacement")?,
                scheme: fields.scheme()?,
                split: fields.bool("split", true)?,
            },
            "BertPreTokenizer" => PreTokenizer::Bert,
            "Whitespace" => PreTokenizer::Whitespace,
            "WhitespaceSplit" => PreTokenizer::WhitespaceSplit,
            "Punctuation" => PreTokenizer::Punctuation(match fields.map.contains_key("behavior") {
                true => fields.behavior()?,
                false => Behavior::Isolated,
            }),
            _ => return Ok(None),
        }))
    }
}

impl Section for PostProcessor {
    const WHAT: &'static str = "post-processor";
    const LIST: &'static str = "processors";

    fn sequence(steps: Vec<Self>) -> Self {
        PostProcessor::Sequence(steps)
    }

    fn read_one(kind: &str, fields: &Fields<'_>) -> Result<Option<Self>> {
        Ok(Some(match kind {
            "ByteLevel" => PostProcessor::ByteLevel,
            "BertProcessing" | "RobertaProcessing" => {
                let id = |name: &str| {
                    let pair = fields.map.get(name).and_then(Json::as_array);
                    let id = Fields::id(pair.and_then(|pair| pair.get(1)));
                    id.ok_or_else(|| malformed("a token and its id", &fields.at(name)))
                };
                PostProcessor::Template { before: vec![id("cls")?], after: vec![id("sep")?] }
            }
            "TemplateProcessing" => read_template(fields)?,
            _ => return Ok(None),
        }))
    }
}

/// The template of a single text: special tokens, the text once, special tokens.
fn read_template(fields: &Fields<'_>) -> Result<PostProcessor> {
    let path = fields.at("single");
    let parts =
        fields.map.get("single").and_then(Json::as_array).ok_or_else(|| malformed("a list", &path))?;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut n_texts = 0;
    for (index, part) in parts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if part.get("Sequence").is_some() {
            n_texts += 1;
            continue;
        }
        let name = part.get("SpecialToken").and_then(|token| token.get("id")).and_then(Json::as_str);
        let name = name.ok_or_else(|| malformed("a Sequence or a SpecialToken", &path))?;
        let token = fields.map.get("special_tokens").and_then(|tokens| tokens.get(name));
        let ids = token.and_then(|token| token.get("ids")).and_then(Json::as_array);
        let ids = ids.ok_or_else(|| malformed("the token among the special_tokens", &path))?;
        for id in ids {
            let id = Fields::id(Some(id)).ok_or_else(|| malformed("a token id", &path))?;
            if n_texts == 0 { before.push(id) } else { after.push(id) }
        }
    }
    match n_texts {
        1 => Ok(PostProcessor::Template { before, after }),
        _ => Err(malformed("the text exactly once", &path)),
    }
}

impl Section for Decoder {
    const WHAT: &'static str = "decoder";
    const LIST: &'static str = "decoders";

    fn sequence(steps: Vec<Self>) -> Self {
        Decoder::Sequence(steps)
    }

    fn read_one(kind: &str, fields: &Fields<'_>) -> Result<Option<Self>> {
        Ok(Some(match kind {
            "ByteLevel" => Decoder::ByteLevel,
            "Metaspace" => {
                Decoder::Metaspace { replacement: fields.char("replacement")?, scheme: fields.scheme()? }
            }
            "WordPiece" => Decoder::WordPiece {
                prefix: fields.string("prefix")?,
                cleanup: fields.bool("cleanup", true)?,
            },
            "ByteFallback" => Decoder::ByteFallback,
            "Fuse" => Decoder::Fuse,
            "Strip" => Decoder::Strip {
                content: fields.char("content")?,
                start: fields.count("start")?,
                stop: fields.count("stop")?,
            },
            "Replace" => Decoder::Replace(fields.pattern()?, fields.string("content")?),
            _ => return Ok(None),
        }))
    }
}
