//! Text to token ids and back, as the model file says.
//!
//! Principal type: [`Tokenizer`]: finds special tokens, hands the text between them to byte-level BPE or SentencePiece
//! BPE. Must not know templates or models.

use std::borrow::Cow;

use super::bpe::{Bpe, MERGES, Scratch, bytes_of_alphabet};
use super::detokenizer::Detokenizer;
use super::nfc::nfc;
use super::pretokenize::{PreKind, pre_kind};
use super::specials::Specials;
use super::spm::{SPACE, Spm};
use super::vocab::{TokenKind, Vocab, read_kinds, read_scores, read_texts};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::metadata::{Metadata, StringArray, missing};

/// Tokens that end a turn or a text in some family; those that a vocabulary has are its end tokens.
const END_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];

/// Other tokens that structure a prompt. With [`END_NAMES`] they count as control tokens even where a file calls them
/// user-defined, or else anybody's text could open and close turns.
const TURN_NAMES: &[&str] = &[
    "<|im_start|>",
    "<start_of_turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<s>",
    "<bos>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    "[INST]",
    "[/INST]",
];

/// How [`Tokenizer::encode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the beginning- and end-of-text tokens that the model wants around a text.
    pub add_special: bool,
    /// Let the text spell control tokens (`<|im_start|>`). User-defined tokens, which are vocabulary rather than
    /// structure, match in any case.
    pub parse_special: bool,
}

enum Model {
    Bpe { bpe: Bpe, kind: PreKind },
    Spm { spm: Spm, add_space_prefix: bool },
}

/// The tokenizer of a model.
pub struct Tokenizer {
    vocab: Vocab,
    specials: Specials,
    model: Model,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    end_tokens: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.model {
            Model::Bpe { kind, .. } => format!("byte-level BPE, {:?}", kind.pre),
            Model::Spm { .. } => "SentencePiece BPE".to_string(),
        };
        write!(f, "Tokenizer({} tokens, {kind})", self.n_vocab())
    }
}

impl Tokenizer {
    /// Reads the keys `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// `unsupported-tokenizer` for a kind or pre-tokenizer that is not known; `missing-key`, `wrong-type`,
    /// `invalid-value` and `limit-exceeded` with the key (and index) at fault.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        const MODEL: &str = "tokenizer.ggml.model";
        match metadata.str(MODEL)?.ok_or_else(|| missing(MODEL))? {
            "gpt2" => Self::byte_level(metadata),
            "llama" => Self::sentence_piece(metadata),
            other => {
                let message = format!(
                    "tokenizer \"{other}\" is not supported; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are"
                );
                Err(Error::new(ErrorCode::UnsupportedTokenizer, message).at(MODEL))
            }
        }
    }

    fn byte_level(metadata: &Metadata) -> Result<Tokenizer> {
        let kind = pre_kind(metadata.str("tokenizer.ggml.pre")?)?;
        let raw = read_texts(metadata)?;
        let kinds = kinds_of(metadata, raw)?;
        let mut texts = StringArray::default();
        let mut bytes = Vec::new();
        for (text, kind) in raw.iter().zip(&kinds) {
            // Only ordinary tokens are written in the byte alphabet; special tokens stand as they are.
            let fits = match kind {
                TokenKind::Normal => {
                    bytes.clear();
                    bytes_of_alphabet(text, &mut bytes);
                    texts.push(&bytes)
                }
                _ => texts.push(text),
            };
            if !fits {
                return Err(Error::new(ErrorCode::LimitExceeded, "the vocabulary is over 4 GiB"));
            }
        }
        let vocab = Vocab::new(texts, kinds);
        let merges = metadata.strings(MERGES)?.ok_or_else(|| missing(MERGES))?;
        let bpe = Bpe::new(&vocab, merges, kind.ignore_merges)?;
        Self::with_ids(metadata, vocab, Model::Bpe { bpe, kind }, [None; 3], kind.add_bos)
    }

    fn sentence_piece(metadata: &Metadata) -> Result<Tokenizer> {
        let texts = read_texts(metadata)?;
        let kinds = kinds_of(metadata, texts)?;
        let scores = read_scores(metadata, texts.len())?;
        let vocab = Vocab::new(texts.clone(), kinds);
        let spm = Spm::new(&vocab, scores)?;
        let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let model = Model::Spm { spm, add_space_prefix };
        Self::with_ids(metadata, vocab, model, [Some(1), Some(2), Some(0)], true)
    }

    /// Reads the ids of special tokens; `defaults` are those of bos, eos and unknown.
    fn with_ids(
        metadata: &Metadata,
        vocab: Vocab,
        model: Model,
        defaults: [Option<u32>; 3],
        add_bos: bool,
    ) -> Result<Tokenizer> {
        let id = |name: &str, default| read_id(metadata, vocab.len(), name, default);
        let bos = id("bos", defaults[0])?;
        let eos = id("eos", defaults[1])?;
        let unknown = id("unknown", defaults[2])?;
        for unused in ["padding", "seperator", "mask"] {
            id(unused, None)?;
        }
        let ends = [eos, id("eot", None)?, id("eom", None)?];
        let end_tokens = end_tokens(&vocab, ends);
        Ok(Tokenizer {
            specials: Specials::of(&vocab),
            model,
            bos,
            eos,
            unknown,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            end_tokens,
            vocab,
        })
    }

    /// Token ids of `text`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        self.encode_bytes(text.as_bytes(), options)
    }

    /// Token ids of arbitrary bytes; what is not UTF-8 survives a round trip through a vocabulary with byte tokens.
    pub fn encode_bytes(&self, bytes: &[u8], options: EncodeOptions) -> Vec<u32> {
        self.encode_parsed(bytes, options, &[])
    }

    /// Token ids of a text whose special tokens are parsed, save that none may begin at a byte offset in `guards`
    /// (sorted). So text from elsewhere may spell special tokens and stay text, and every other text is tokenised
    /// exactly as without guards: they do not cut it.
    pub fn encode_guarded(&self, text: &str, guards: &[usize]) -> Vec<u32> {
        let options = EncodeOptions { add_special: false, parse_special: true };
        self.encode_parsed(text.as_bytes(), options, guards)
    }

    fn encode_parsed(&self, bytes: &[u8], options: EncodeOptions, guards: &[usize]) -> Vec<u32> {
        let mut out = Vec::with_capacity(bytes.len() / 4 + 2);
        if options.add_special && self.add_bos {
            out.extend(self.bos);
        }
        let mut scratch = Scratch::default();
        let mut at = 0;
        // SentencePiece puts its leading space before the text and after each special token.
        while let Some((range, id)) = self.specials.find(bytes, at, options.parse_special, guards) {
            self.encode_fragment(&bytes[at..range.start], &mut scratch, &mut out);
            out.push(id);
            at = range.end;
        }
        self.encode_fragment(&bytes[at..], &mut scratch, &mut out);
        if options.add_special && self.add_eos {
            out.extend(self.eos);
        }
        out
    }

    /// Encodes text that holds no special token.
    fn encode_fragment(&self, bytes: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if bytes.is_empty() {
            return;
        }
        match &self.model {
            Model::Bpe { bpe, kind } => {
                let text = if kind.nfc { nfc(bytes) } else { Cow::Borrowed(bytes) };
                kind.pre.split(&text, &mut |piece| {
                    bpe.encode(&self.vocab, piece, scratch, out);
                });
            }
            Model::Spm { spm, add_space_prefix } => {
                let prefix = if *add_space_prefix { SPACE } else { "" };
                let mut text = Vec::with_capacity(bytes.len() * 3 / 2);
                text.extend_from_slice(prefix.as_bytes());
                for byte in bytes {
                    match byte {
                        b' ' => text.extend_from_slice(SPACE.as_bytes()),
                        _ => text.push(*byte),
                    }
                }
                spm.encode(&self.vocab, &text, self.unknown, out);
            }
        }
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_special` leaves control tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut detokenizer = Detokenizer::new(self);
        if !skip_special {
            detokenizer = detokenizer.showing_special();
        }
        let mut text = String::new();
        for id in ids {
            text.push_str(&detokenizer.push(self, *id));
        }
        text.push_str(&detokenizer.finish());
        text
    }

    /// The bytes that token `id` stands for: a token may be part of a character. Empty for an id outside the
    /// vocabulary.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        let text = self.vocab.text(id).unwrap_or_default();
        let Model::Spm { spm, .. } = &self.model else {
            return Cow::Borrowed(text);
        };
        if let Some(byte) = spm.byte_of(id) {
            return Cow::Owned(vec![byte]);
        }
        match std::str::from_utf8(text) {
            Ok(text) if self.vocab.kind(id) == Some(TokenKind::Normal) && text.contains(SPACE) => {
                Cow::Owned(text.replace(SPACE, " ").into_bytes())
            }
            _ => Cow::Borrowed(text),
        }
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a plain prompt gets the beginning-of-text token in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether `id` is structure and not text: a control token or the unknown token.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The tokens that end a reply, ascending: end of text, of turn and of message.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The token that is exactly `text` (ordinary tokens by the text they stand for, special ones by their name).
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.find(text.as_bytes())
    }

    /// The special tokens, for the chat template's guards.
    pub(crate) fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Whether decoded text begins with a space that encoding has put there.
    pub(crate) fn has_space_prefix(&self) -> bool {
        matches!(&self.model, Model::Spm { add_space_prefix: true, .. })
    }
}

/// The kinds of all tokens, with structural tokens made control tokens whatever the file calls them.
fn kinds_of(metadata: &Metadata, texts: &StringArray) -> Result<Vec<TokenKind>> {
    let kinds = read_kinds(metadata, texts.len())?;
    let told = kinds.is_some();
    let mut kinds = kinds.unwrap_or_else(|| vec![TokenKind::Normal; texts.len()]);
    for (kind, text) in kinds.iter_mut().zip(texts.iter()) {
        let structural = || END_NAMES.iter().chain(TURN_NAMES).any(|name| name.as_bytes() == text);
        // "</s>" may be an ordinary token of a vocabulary that knows HTML; "<|im_end|>" is not.
        let pipes = text.starts_with(b"<|") && text.ends_with(b"|>");
        let doubtful = match kind {
            TokenKind::UserDefined => true,
            TokenKind::Normal => !told || pipes,
            _ => false,
        };
        if doubtful && structural() {
            *kind = TokenKind::Control;
        }
    }
    Ok(kinds)
}

/// The id under `tokenizer.ggml.{name}_token_id`, or the default; either must be in the vocabulary.
fn read_id(metadata: &Metadata, n_vocab: usize, name: &str, default: Option<u32>) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = metadata.u64(&key)?.or(default.map(u64::from)) else {
        return Ok(None);
    };
    match u32::try_from(id) {
        Ok(small) if (small as usize) < n_vocab => Ok(Some(small)),
        _ => {
            let message = format!("token {id} is outside the vocabulary of {n_vocab} tokens");
            Err(Error::new(ErrorCode::InvalidValue, message).at(key))
        }
    }
}

fn end_tokens(vocab: &Vocab, ids: [Option<u32>; 3]) -> Vec<u32> {
    let special = |name: &&str| {
        let id = vocab.find(name.as_bytes())?;
        matches!(vocab.kind(id), Some(TokenKind::Control | TokenKind::UserDefined)).then_some(id)
    };
    // In gpt-oss's harmony format <|end|> closes a message, and the reply goes on with another.
    let harmony = special(&"<|return|>").is_some() && special(&"<|call|>").is_some();
    let names = END_NAMES.iter().filter(|name| !(harmony && **name == "<|end|>"));
    let mut ends: Vec<u32> = ids.into_iter().flatten().chain(names.filter_map(special)).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}
