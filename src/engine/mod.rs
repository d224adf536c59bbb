//! A model that chats: from a file's header to an engine with an API.
//!
//! Principal types: [`Loading`], what a header says and a backend needs, and [`Engine`], which runs requests. Must
//! not know the web, nor which backend runs.

mod adapters;
#[cfg(feature = "gpu")]
mod check;
mod embed;
mod folder;
mod loading;
#[cfg(not(target_arch = "wasm32"))]
pub mod native;
mod pooling;
#[cfg(not(target_arch = "wasm32"))]
pub mod quantize;
mod request;
mod text_files;

pub use adapters::{AdapterFile, AdapterId};
#[cfg(feature = "gpu")]
pub use check::{GpuFacts, check_gpu};
pub use embed::{EmbedRequest, Embeddings};
pub use folder::{ModelFiles, ModelFolder, open_files};
pub use loading::{DEFAULT_N_BATCH, DEFAULT_N_CTX, LoadOptions, Loading, MAX_SEQUENCES, ModelSummary, fill};
pub use request::{ChatRequest, CompletionRequest, Outcome, Prompt, Templated, Timings, Usage};
pub use text_files::tokenizer;

pub use crate::generate::fields::invalid_request;
pub use crate::generate::{Event, FinishReason, NoPause, Pause, SamplingParams, TokenLogprob};

use serde_json::{Map, Value};

use crate::backend::Backend;
use crate::error::{Error, ErrorCode, Result};
use crate::generate::{Session, TextDecoder, generate};
use crate::model::spec::HeadSpec;
use crate::text::{ChatMessage, ChatTemplate, Detokenizer, EncodeOptions, Tokenizer};

/// A loaded model. One request runs at a time; one that was stopped or failed leaves the engine usable.
pub struct Engine<B> {
    session: Session<B>,
    tokenizer: Tokenizer,
    /// The chat template, or why there is none: completions work without.
    template: std::result::Result<ChatTemplate, String>,
    summary: ModelSummary,
    /// Whether it generates text or embeds it.
    head: HeadSpec,
    adapters: adapters::Adapters,
}

impl<B: Backend> Engine<B> {
    /// Facts of the model.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The backend and its KV cache.
    pub fn session(&self) -> &Session<B> {
        &self.session
    }

    /// The backend and its KV cache, to run steps by hand.
    pub fn session_mut(&mut self) -> &mut Session<B> {
        &mut self.session
    }

    /// Answers a conversation; `on_event` sees the text grow.
    /// # Errors
    /// `InvalidRequest` naming the field, `TemplateError`, `ContextLengthExceeded`, and what the backend says.
    pub async fn chat(
        &mut self,
        request: ChatRequest,
        pause: &impl Pause,
        on_event: impl FnMut(Event),
    ) -> Result<Outcome> {
        request.validate()?;
        let prompt = self.apply_chat_template(&request.messages, true, &request.template_args)?;
        // A reply begins a text of its own: a leading space of its first token is not shown.
        let detokenizer = Detokenizer::new(&self.tokenizer);
        self.generate(&prompt.ids, request.sampling, detokenizer, pause, on_event).await
    }

    /// Goes on with a text or with tokens; `on_event` sees the text grow.
    /// # Errors
    /// As [`Engine::chat`].
    pub async fn complete(
        &mut self,
        request: CompletionRequest,
        pause: &impl Pause,
        on_event: impl FnMut(Event),
    ) -> Result<Outcome> {
        request.sampling.validate()?;
        let ids = match request.prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => {
                self.tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false })
            }
        };
        self.generate(&ids, request.sampling, Detokenizer::continuing(), pause, on_event).await
    }

    async fn generate(
        &mut self,
        prompt: &[u32],
        sampling: SamplingParams,
        detokenizer: Detokenizer,
        pause: &impl Pause,
        on_event: impl FnMut(Event),
    ) -> Result<Outcome> {
        if self.head != HeadSpec::Logits {
            let message = "this model gives embeddings and no text: call embed instead";
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("model"));
        }
        let decoder = Decoder { tokenizer: &self.tokenizer, detokenizer };
        let generated = generate(&mut self.session, prompt, sampling, decoder, pause, on_event).await?;
        Ok(Outcome::new(generated, prompt.len()))
    }

    /// Token ids of a text.
    pub fn tokenize(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        self.tokenizer.encode(text, options)
    }

    /// Text of token ids.
    /// # Errors
    /// `InvalidRequest` for an id that the vocabulary does not have.
    pub fn detokenize(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let n_vocab = self.tokenizer.n_vocab();
        if let Some(index) = ids.iter().position(|id| *id as usize >= n_vocab) {
            let message = format!("{} is no token: the vocabulary has {n_vocab}", ids[index]);
            return Err(Error::new(ErrorCode::InvalidRequest, message).at(format!("ids[{index}]")));
        }
        Ok(self.tokenizer.decode(ids, skip_special))
    }

    /// The prompt that a conversation becomes.
    /// # Errors
    /// `TemplateError` when the model brings no template, or the template fails or refuses the messages.
    pub fn apply_chat_template(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        args: &Map<String, Value>,
    ) -> Result<Templated> {
        let template = self.template.as_ref().map_err(|reason| {
            Error::new(ErrorCode::TemplateError, reason.as_str()).at("tokenizer.chat_template")
        })?;
        let rendered = template.render(messages, add_generation_prompt, args)?;
        let mut ids = rendered.encode(&self.tokenizer);
        // Most templates write the beginning-of-text token themselves; models that want one get it from us otherwise.
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(Templated { text: rendered.text().to_owned(), ids })
    }

    /// Logits after the last token (or after every token) of `ids`, computed from position 0: `[n_outputs, n_vocab]`.
    /// Embedding models give final hidden states instead, `[n_outputs, n_embd]`, before pooling.
    /// # Errors
    /// `InvalidRequest`, `ContextLengthExceeded`, `Aborted` when `pause` said stop, and what the backend says.
    pub async fn forward(&mut self, ids: &[u32], all: bool, pause: &impl Pause) -> Result<Vec<f32>> {
        let logits = self.session.logits(ids, all, pause).await?;
        logits.ok_or_else(|| Error::new(ErrorCode::Aborted, "stopped by the caller"))
    }
}

/// The tokenizer as the decode loop sees it.
struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    detokenizer: Detokenizer,
}

impl TextDecoder for Decoder<'_> {
    fn push(&mut self, id: u32) -> String {
        self.detokenizer.push(self.tokenizer, id)
    }

    fn finish(&mut self) -> String {
        self.detokenizer.finish()
    }

    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.end_tokens().contains(&id)
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(id).into_owned()
    }
}
