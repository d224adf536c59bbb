//! Hugging Face's `tokenizer.json`: what a tokenizer is made of, as plain data.
//!
//! Principal type: [`TokenizerJson`]. The vocabulary and the merges, which are the bulk of the file, are read straight
//! into flat arrays; the small sections become closed enums, so that everything unknown is refused here, by name.
//! Must not know how text is encoded.

mod sections;
mod vocabulary;

use serde::Deserialize;
use serde_json::Value as Json;

use self::sections::Section;
pub use self::sections::{
    Behavior, Decoder, Normalizer, Pattern, PostProcessor, PreTokenizer, PrependScheme,
};
use self::vocabulary::Merges;
pub use self::vocabulary::Vocabulary;
use super::metadata::StringArray;
use crate::error::{Error, ErrorCode, Result};

/// A token that is matched in the text before the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Matches only where no word character touches it.
    #[serde(default)]
    pub single_word: bool,
    /// Takes the white space before it along.
    #[serde(default)]
    pub lstrip: bool,
    /// Takes the white space after it along.
    #[serde(default)]
    pub rstrip: bool,
    /// Is looked for in the normalised text, itself normalised.
    #[serde(default)]
    pub normalized: bool,
    /// Structure of a prompt and not text.
    #[serde(default)]
    pub special: bool,
}

/// What makes tokens of a pre-token.
#[derive(Debug)]
pub enum Model {
    /// Byte-pair encoding.
    Bpe(BpeModel),
    /// The most probable segmentation.
    Unigram {
        /// Id of the unknown token.
        unk_id: Option<u32>,
        /// Unknown characters become the tokens of their bytes.
        byte_fallback: bool,
    },
    /// Greedy longest match within words.
    WordPiece {
        /// Text of the unknown token.
        unk_token: String,
        /// Marks pieces that do not begin a word.
        continuing_subword_prefix: String,
        /// Longer words are unknown.
        max_input_chars_per_word: usize,
    },
}

/// Settings and merges of byte-pair encoding.
#[derive(Debug)]
pub struct BpeModel {
    /// Left and right sides of the merges, alternating, the most important first.
    pub merges: StringArray,
    /// Text of the token for characters that have none.
    pub unk_token: Option<String>,
    /// Neighbouring unknown characters become one token.
    pub fuse_unk: bool,
    /// Characters without a token become the tokens of their bytes (`<0x0A>`).
    pub byte_fallback: bool,
    /// A pre-token that is a token is taken whole.
    pub ignore_merges: bool,
}

/// A tokenizer, described.
#[derive(Debug)]
pub struct TokenizerJson {
    /// Tokens that are matched first.
    pub added_tokens: Vec<AddedToken>,
    /// Changes of the text before it is cut.
    pub normalizer: Option<Normalizer>,
    /// How text is cut into pre-tokens.
    pub pre_tokenizer: Option<PreTokenizer>,
    /// Tokens around a text.
    pub post_processor: Option<PostProcessor>,
    /// How tokens become text.
    pub decoder: Option<Decoder>,
    /// What makes tokens of a pre-token.
    pub model: Model,
    /// The model's tokens.
    pub vocabulary: Vocabulary,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    model: ModelFields,
}

/// The fields of all kinds of models.
#[derive(Deserialize)]
struct ModelFields {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Vocabulary,
    #[serde(default)]
    merges: Merges,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
}

impl TokenizerJson {
    /// Reads a whole `tokenizer.json`.
    ///
    /// # Errors
    /// `malformed` for what is not such a file, `unsupported-tokenizer` for parts that are not known (quoted),
    /// `limit-exceeded` for a vocabulary larger than any model's.
    pub fn parse(bytes: &[u8]) -> Result<TokenizerJson> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| {
            let code = match error.to_string().contains(vocabulary::TOO_LARGE) {
                true => ErrorCode::LimitExceeded,
                false => ErrorCode::Malformed,
            };
            Error::new(code, format!("this is no tokenizer.json that Lamplight can read: {error}"))
                .at("tokenizer.json")
        })?;
        let (model, vocabulary) = file.model.convert()?;
        Ok(TokenizerJson {
            added_tokens: file.added_tokens,
            normalizer: Normalizer::read(&file.normalizer, "normalizer")?,
            pre_tokenizer: PreTokenizer::read(&file.pre_tokenizer, "pre_tokenizer")?,
            post_processor: PostProcessor::read(&file.post_processor, "post_processor")?,
            decoder: Decoder::read(&file.decoder, "decoder")?,
            model,
            vocabulary,
        })
    }
}

impl ModelFields {
    fn convert(self) -> Result<(Model, Vocabulary)> {
        let unsupported = |message: String, field: &str| {
            Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at(format!("model.{field}")))
        };
        // Old files do not name the kind.
        let guessed = match (&self.vocab.scores, self.merges.pairs.is_empty()) {
            (Some(_), _) => "Unigram",
            (None, true) => "WordPiece",
            (None, false) => "BPE",
        };
        let model = match self.kind.as_deref().unwrap_or(guessed) {
            "BPE" => {
                if self.dropout.is_some_and(|rate| rate != 0.0) {
                    return unsupported("BPE with dropout gives other tokens every time".into(), "dropout");
                }
                for (name, value) in [
                    ("continuing_subword_prefix", &self.continuing_subword_prefix),
                    ("end_of_word_suffix", &self.end_of_word_suffix),
                ] {
                    if let Some(text) = value.as_deref().filter(|text| !text.is_empty()) {
                        return unsupported(format!("BPE with \"{text}\" at words is not supported"), name);
                    }
                }
                Model::Bpe(BpeModel {
                    merges: self.merges.pairs,
                    unk_token: self.unk_token,
                    fuse_unk: self.fuse_unk,
                    byte_fallback: self.byte_fallback,
                    ignore_merges: self.ignore_merges,
                })
            }
            "Unigram" => Model::Unigram { unk_id: self.unk_id, byte_fallback: self.byte_fallback },
            "WordPiece" => Model::WordPiece {
                unk_token: self.unk_token.unwrap_or_else(|| "[UNK]".into()),
                continuing_subword_prefix: self.continuing_subword_prefix.unwrap_or_else(|| "##".into()),
                max_input_chars_per_word: self.max_input_chars_per_word.unwrap_or(100),
            },
            other => {
                let message =
                    format!("tokenizer model \"{other}\" is not supported; BPE, Unigram and WordPiece are");
                return unsupported(message, "type");
            }
        };
        if matches!(model, Model::Unigram { .. }) != self.vocab.scores.is_some() {
            let error = Error::new(ErrorCode::Malformed, "the vocabulary does not fit the kind of the model");
            return Err(error.at("model.vocab"));
        }
        Ok((model, self.vocab))
    }
}
