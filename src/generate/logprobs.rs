//! Log-probabilities of tokens, given out with the text that the tokens are part of.
//!
//! Principal types: [`TokenLogprob`] and [`Held`]. Must not know where log-probabilities come from.

use std::collections::VecDeque;

use serde::Serialize;

/// How probable a token was, in natural logarithms: of the softmax of the model's logits before bias, penalties, mask and
/// temperature, as OpenAI's API and vLLM's `raw_logprobs` have it. At least -9999.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// What it stands for, perhaps a part of a character.
    pub bytes: Vec<u8>,
    /// Its logarithm.
    pub logprob: f32,
    /// Of a drawn token, the most probable ones in its place, most probable first; it may be one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenLogprob>,
}

/// Those whose text is not certain yet: a character is unfinished, or a stop string may be coming.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Each with the number of bytes of text before it.
    tokens: VecDeque<(usize, TokenLogprob)>,
}

impl Held {
    /// Holds the next token, whose text begins after `start` bytes.
    pub(super) fn push(&mut self, start: usize, token: TokenLogprob) {
        self.tokens.push_back((start, token));
    }

    /// Takes out those that have a part in the first `shown` bytes of text.
    pub(super) fn take(&mut self, shown: usize) -> Vec<TokenLogprob> {
        let n = self.tokens.iter().take_while(|(start, _)| *start < shown).count();
        self.tokens.drain(..n).map(|(_, token)| token).collect()
    }

    /// Takes out all.
    pub(super) fn finish(&mut self) -> Vec<TokenLogprob> {
        self.take(usize::MAX)
    }
}
