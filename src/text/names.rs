//! Special tokens that are known by their names, because files do not say what they are for.
//!
//! Principal function: [`end_tokens`]. Must not know templates or models.

use super::vocab::{TokenKind, Vocab};

/// Tokens that end a turn or a text in some family; those that a vocabulary has are its end tokens.
const END_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[|endofturn|]",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];

/// Other tokens that structure a prompt. With [`END_NAMES`] they count as control tokens even where a file calls them
/// user-defined, or else anybody's text could open and close turns.
const TURN_NAMES: &[&str] = &[
    "<|im_start|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<s>",
    "<bos>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[|system|]",
    "[|user|]",
    "[|assistant|]",
];

/// Whether a token of this name structures prompts.
pub(crate) fn is_structural(text: &[u8]) -> bool {
    END_NAMES.iter().chain(TURN_NAMES).any(|name| name.as_bytes() == text)
}

/// The tokens that end a reply, ascending: the given ones, and those known by name.
pub(crate) fn end_tokens(vocab: &Vocab, ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let special = |name: &&str| {
        let id = vocab.find(name.as_bytes())?;
        matches!(vocab.kind(id), Some(TokenKind::Control | TokenKind::UserDefined)).then_some(id)
    };
    // In gpt-oss's harmony format <|end|> closes a message, and the reply goes on with another.
    let harmony = special(&"<|return|>").is_some() && special(&"<|call|>").is_some();
    let message_end = if harmony { special(&"<|end|>") } else { None };
    let names = END_NAMES.iter().filter_map(special);
    let mut ends: Vec<u32> = ids.into_iter().chain(names).filter(|id| Some(*id) != message_end).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}
