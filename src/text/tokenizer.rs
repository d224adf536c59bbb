//! Text to token ids and back, as the model file says.
//!
//! Principal type: [`Tokenizer`]: finds special tokens, and normalises, cuts and encodes the text between them. What the
//! parts are is read by `from_gguf` and `from_hf`. Must not know templates or models.

use std::borrow::Cow;
use std::ops::Range;

use super::bpe::{Bpe, Scratch};
use super::decode::Decoding;
use super::detokenizer::Detokenizer;
use super::normalize::Normalizer;
use super::pretokenize::PreTokenizer;
use super::specials::Specials;
use super::spm::Spm;
use super::unigram::Unigram;
use super::vocab::{TokenKind, Vocab};
use super::wordpiece::WordPiece;
use super::world::World;

/// How [`Tokenizer::encode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the beginning- and end-of-text tokens that the model wants around a text.
    pub add_special: bool,
    /// Let the text spell control tokens (`<|im_start|>`). User-defined tokens, which are vocabulary rather than
    /// structure, match in any case.
    pub parse_special: bool,
}

/// What makes tokens of a pre-token.
pub(crate) enum Model {
    Bpe(Bpe),
    Spm(Spm),
    Unigram(Unigram),
    WordPiece(WordPiece),
    World(World),
}

/// The tokenizer of a model.
pub struct Tokenizer {
    pub(crate) vocab: Vocab,
    /// Looked for in the text as it is.
    pub(crate) specials: Specials,
    /// Looked for in the normalised text between the others.
    pub(crate) normalized_specials: Specials,
    pub(crate) normalizer: Normalizer,
    pub(crate) pre: PreTokenizer,
    pub(crate) model: Model,
    pub(crate) decoding: Decoding,
    /// Tokens before a text that gets special tokens.
    pub(crate) before: Vec<u32>,
    /// Tokens after such a text.
    pub(crate) after: Vec<u32>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unknown: Option<u32>,
    pub(crate) end_tokens: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.model {
            Model::Bpe(_) => "BPE",
            Model::Spm(_) => "SentencePiece BPE",
            Model::Unigram(_) => "Unigram",
            Model::WordPiece(_) => "WordPiece",
            Model::World(_) => "World",
        };
        write!(f, "Tokenizer({} tokens, {kind})", self.n_vocab())
    }
}

impl Tokenizer {
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
        if options.add_special {
            out.extend(&self.before);
        }
        let mut scratch = Scratch::default();
        let mut at = 0;
        while let Some((range, id)) = self.specials.find(bytes, at, options.parse_special, guards) {
            self.encode_fragment(bytes, at..range.start, options, guards, &mut scratch, &mut out);
            out.push(id);
            at = range.end;
        }
        self.encode_fragment(bytes, at..bytes.len(), options, guards, &mut scratch, &mut out);
        if options.add_special {
            out.extend(&self.after);
        }
        out
    }

    /// Encodes the part of a text between two special tokens. What is put before a text goes before each such part.
    fn encode_fragment(
        &self,
        bytes: &[u8],
        range: Range<usize>,
        options: EncodeOptions,
        guards: &[usize],
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        let fragment = &bytes[range.clone()];
        if fragment.is_empty() {
            return;
        }
        let text = self.normalizer.apply(fragment);
        let mut encode = |part: &[u8], first: bool, out: &mut Vec<u32>| {
            self.pre.split(part, first, &mut |piece| self.encode_piece(piece, scratch, out));
        };
        if self.normalized_specials.entries().is_empty() {
            return encode(&text, range.start == 0, out);
        }
        let guards = self.guards_after_normalizing(bytes, &range, guards);
        let mut at = 0;
        while let Some((found, id)) = self.normalized_specials.find(&text, at, options.parse_special, &guards)
        {
            encode(&text[at..found.start], range.start + at == 0, out);
            out.push(id);
            at = found.end;
        }
        encode(&text[at..], range.start + at == 0, out);
    }

    /// Where the guards within `range` stand once the range is normalised; what stands before a guard is normalised by
    /// itself, which is exact for all that goes character by character.
    fn guards_after_normalizing(&self, bytes: &[u8], range: &Range<usize>, guards: &[usize]) -> Vec<usize> {
        let inner = guards.iter().copied().filter(|guard| range.contains(guard));
        let mut shifted = Vec::new();
        let (mut from, mut length) = (range.start, 0);
        for guard in inner {
            length += self.normalizer.apply(&bytes[from..guard]).len();
            shifted.push(length);
            from = guard;
        }
        shifted
    }

    fn encode_piece(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(&self.vocab, piece, scratch, out),
            Model::Spm(spm) => spm.encode(&self.vocab, piece, self.unknown, out),
            Model::Unigram(unigram) => unigram.encode(&self.vocab, piece, out),
            Model::WordPiece(model) => model.encode(&self.vocab, piece, out),
            Model::World(world) => world.encode(&self.vocab, piece, out),
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
        match (self.vocab.text(id), self.vocab.kind(id)) {
            (Some(text), Some(kind)) => self.decoding.bytes(text, kind),
            _ => Cow::Borrowed(&[]),
        }
    }

    /// The name of token `id`, as templates spell it.
    pub(crate) fn token_name(&self, id: u32) -> String {
        String::from_utf8_lossy(self.vocab.text(id).unwrap_or_default()).into_owned()
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
        self.bos.is_some() && self.before.first().copied() == self.bos
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
    pub(crate) fn specials(&self) -> Specials {
        self.specials.with(&self.normalized_specials, |id| self.token_name(id))
    }

    /// Whether decoded text begins with a space that encoding has put there.
    pub(crate) fn has_space_prefix(&self) -> bool {
        self.decoding.drops_first_space
    }
}
