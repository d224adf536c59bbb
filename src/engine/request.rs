//! What callers ask for and what they get, in OpenAI's spelling (`pkg/src/types.ts` has the same names).
//!
//! Principal types: [`ChatRequest`], [`CompletionRequest`], [`Outcome`]. Must not know backends.

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::backend::Counters;
use crate::error::{Error, ErrorCode, Result};
use crate::generate::fields::{self, Fields, Items, field};
use crate::generate::{FinishReason, Generated, SamplingParams, TokenLogprob};
use crate::text::ChatMessage;

/// A conversation to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    /// All turns so far.
    pub messages: Vec<ChatMessage>,
    /// Extra variables of the chat template, such as `enable_thinking`.
    pub template_args: serde_json::Map<String, serde_json::Value>,
    /// Sampling settings and limits.
    pub sampling: SamplingParams,
}

impl ChatRequest {
    /// Checks what can be checked without a model.
    /// # Errors
    /// `InvalidRequest` with the field at fault.
    pub fn validate(&self) -> Result<()> {
        if self.messages.is_empty() {
            let message = "a conversation needs at least one message";
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("messages"));
        }
        self.sampling.validate()
    }
}

impl Fields for ChatRequest {
    const WHAT: &'static str = "a chat request";

    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        match key {
            "messages" => field(key, map, |v: Items<ChatMessage>| self.messages = v.0),
            "template_args" => field(key, map, |v| self.template_args = v),
            _ => self.sampling.set(key, map),
        }
    }
}

impl<'de> Deserialize<'de> for ChatRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fields::deserialize(deserializer)
    }
}

/// A text to go on with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompletionRequest {
    /// The beginning.
    pub prompt: Prompt,
    /// Sampling settings and limits.
    pub sampling: SamplingParams,
}

/// The beginning of a completion.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Tokenized as the model wants it, with its beginning-of-text token; special tokens written out stay text.
    Text(String),
    /// Taken as they are.
    Ids(Vec<u32>),
}

impl Default for Prompt {
    fn default() -> Self {
        Prompt::Text(String::new())
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrIds;
        impl<'de> Visitor<'de> for StringOrIds {
            type Value = Prompt;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of token ids")
            }

            fn visit_str<E>(self, value: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(value.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Prompt, A::Error> {
                fields::items(seq).map(Prompt::Ids)
            }
        }
        deserializer.deserialize_any(StringOrIds)
    }
}

impl Fields for CompletionRequest {
    const WHAT: &'static str = "a completion request";

    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        match key {
            "prompt" => field(key, map, |v| self.prompt = v),
            _ => self.sampling.set(key, map),
        }
    }
}

impl<'de> Deserialize<'de> for CompletionRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fields::deserialize(deserializer)
    }
}

/// A finished request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The text, without end tokens and stop strings.
    pub text: String,
    /// All generated tokens, the one that ended the turn included.
    pub ids: Vec<u32>,
    /// Of the tokens that the text is of, where [`SamplingParams::top_logprobs`] asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Counts and speeds.
    pub usage: Usage,
}

impl Outcome {
    /// The outcome of a generation after `prompt_tokens` tokens.
    pub(super) fn new(generated: Generated, prompt_tokens: usize) -> Self {
        let completion_tokens = generated.ids.len();
        Self {
            text: generated.text,
            ids: generated.ids,
            logprobs: generated.logprobs,
            finish_reason: generated.finish_reason,
            usage: Usage {
                prompt_tokens,
                completion_tokens,
                total_tokens: prompt_tokens + completion_tokens,
                cached_tokens: generated.n_cached,
                timings: Timings {
                    ttft_ms: generated.metrics.ttft_ms,
                    prefill_tok_s: generated.metrics.prefill_tok_s,
                    decode_tok_s: generated.metrics.decode_tok_s,
                },
                work: generated.metrics.counters,
            },
        }
    }
}

/// Token counts and speeds, as `Usage` of the TypeScript API.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Generated tokens, the one that ended the turn included.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Prompt tokens that were still in the KV cache.
    pub cached_tokens: usize,
    /// Speeds.
    pub timings: Timings,
    /// Backend work of the whole request.
    pub work: Counters,
}

/// Speeds of a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timings {
    /// From the request to its first token, in milliseconds.
    pub ttft_ms: f64,
    /// Computed prompt tokens per second.
    pub prefill_tok_s: f64,
    /// Tokens per second after the first.
    pub decode_tok_s: f64,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Templated {
    /// The prompt as text.
    pub text: String,
    /// The prompt as tokens: special tokens of the template are special, those in messages stay text.
    pub ids: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::fields::invalid_request;

    #[test]
    fn requests_are_read_in_openai_spelling() {
        let json = r#"{"model": "x", "messages": [{"role": "user", "content": "Hi", "refusal": null}],
            "temperature": 0, "stream": true, "template_args": {"enable_thinking": false}, "max_tokens": 5}"#;
        let request: ChatRequest = serde_json::from_str(json).unwrap();
        assert_eq!((request.messages[0].role.as_str(), request.messages[0].content.as_str()), ("user", "Hi"));
        assert_eq!((request.sampling.temperature, request.sampling.max_tokens), (0.0, Some(5)));
        assert_eq!(request.template_args["enable_thinking"], false);
        request.validate().unwrap();

        let request: CompletionRequest = serde_json::from_str(r#"{"prompt": [1, 2], "seed": 3}"#).unwrap();
        assert_eq!((request.prompt, request.sampling.seed), (Prompt::Ids(vec![1, 2]), Some(3)));
        let request: CompletionRequest = serde_json::from_str(r#"{"prompt": "Once"}"#).unwrap();
        assert_eq!(request.prompt, Prompt::Text("Once".into()));
    }

    #[test]
    fn wrong_types_name_their_field() {
        for (json, field) in [
            (r#"{"messages": "hello"}"#, "messages"),
            (r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}"#, "messages[1]"),
            (r#"{"messages": [{"role": 1, "content": "a"}]}"#, "messages[0]"),
            (r#"{"template_args": []}"#, "template_args"),
            (r#"{"top_p": "all"}"#, "top_p"),
        ] {
            let error = serde_json::from_str::<ChatRequest>(json).map_err(invalid_request).unwrap_err();
            assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some(field)), "{error}");
        }
        for (json, field) in [(r#"{"prompt": 3}"#, "prompt"), (r#"{"prompt": [1, -2]}"#, "prompt[1]")] {
            let error = serde_json::from_str::<CompletionRequest>(json).map_err(invalid_request).unwrap_err();
            assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some(field)), "{error}");
        }
    }

    #[test]
    fn a_conversation_without_messages_is_refused() {
        let error = ChatRequest::default().validate().unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("messages")));
    }
}
