//! Text in, token ids out, and back: tokenizers, the incremental detokenizer and chat templates.
//!
//! Principal types: [`Tokenizer`], [`Detokenizer`], [`ChatTemplate`]. A leaf module: it reads
//! [`Metadata`](crate::formats::metadata::Metadata) and must not know models, backends or the browser.

mod bpe;
mod chars;
mod charsmap;
mod decode;
mod detokenizer;
mod from_gguf;
mod from_hf;
mod names;
mod nfc;
mod nfc_tables;
mod nfkc_tables;
mod normalize;
mod patterns;
mod prefixes;
mod pretokenize;
mod specials;
mod spm;
mod table;
mod template;
mod tokenizer;
mod unicode_tables;
mod unigram;
mod vocab;
mod wordpiece;
mod world;

pub use detokenizer::Detokenizer;
pub use template::{ChatMessage, ChatTemplate, Clock, Rendered};
pub use tokenizer::{EncodeOptions, Tokenizer};

#[cfg(all(test, not(target_arch = "wasm32")))]
mod reference_tests;
