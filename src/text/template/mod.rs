//! A model's own chat template: messages to prompt text.
//!
//! Principal type: [`ChatTemplate`]. The template is a program by a stranger, so it runs with bounded steps, depth,
//! source and output, and knows no functions but those that templates are written for. What messages say can never
//! become a special token: see [`guard`]. Must not know models or how the prompt is used.

mod guard;
mod json;
mod limits;
mod runtime;
mod time;

use minijinja::Environment;
use minijinja::value::Value;
use serde::{Deserialize, Serialize};

use self::guard::{Guard, Source};
use self::runtime::{BoundedOutput, OrderedMap};
pub use self::time::Clock;
use super::tokenizer::Tokenizer;
use crate::error::{Error, ErrorCode, Result};
use crate::formats::metadata::Metadata;

/// Metadata key of the template.
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Metadata key of the template for conversations with tools, where there is one.
const TOOL_USE_TEMPLATE: &str = "tokenizer.chat_template.tool_use";

/// Longest template accepted, in bytes.
const MAX_SOURCE: usize = 256 << 10;

/// The prompt may be this many bytes plus [`OUTPUT_FACTOR`] times what the caller passed in.
const OUTPUT_BASE: usize = 1 << 20;
const OUTPUT_FACTOR: usize = 4;

/// One message of a conversation, in OpenAI's shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireMessage")]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, `tool` or what else the template knows.
    pub role: String,
    /// What is said. Where this is empty and there are tool calls, templates see no content, unless they insist on one.
    pub content: String,
    /// The speaker's name (of a tool's answer: the tool's), for templates that show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The calls that an assistant's message makes, as JSON: `{"type": "function", "function": {"name": …,
    /// "arguments": …}}`. Most templates want the arguments as an object and not as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<serde_json::Value>>,
    /// Which call a tool's message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it spoke, for templates that show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same under the name that gpt-oss gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
}

/// A message as clients send it: OpenAI's leave out the content, or send null, beside tool calls.
#[derive(Deserialize)]
struct WireMessage {
    role: String,
    content: Option<String>,
    name: Option<String>,
    tool_calls: Option<Vec<serde_json::Value>>,
    tool_call_id: Option<String>,
    reasoning_content: Option<String>,
    thinking: Option<String>,
}

impl TryFrom<WireMessage> for ChatMessage {
    type Error = &'static str;

    fn try_from(wire: WireMessage) -> std::result::Result<Self, Self::Error> {
        let WireMessage { role, content, name, tool_calls, tool_call_id, reasoning_content, thinking } = wire;
        if content.is_none() && tool_calls.is_none() {
            return Err("a message needs `content` or `tool_calls`");
        }
        let content = content.unwrap_or_default();
        Ok(ChatMessage { role, content, name, tool_calls, tool_call_id, reasoning_content, thinking })
    }
}

impl ChatMessage {
    /// A message that says something and nothing else.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> ChatMessage {
        ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
    }

    /// Whether the message calls tools and says nothing.
    fn is_silent(&self) -> bool {
        self.content.is_empty() && self.tool_calls.is_some()
    }

    /// The fields that are texts, by name, with where they come from.
    fn texts(&self, without_content: bool) -> impl Iterator<Item = (&'static str, &str, Source)> {
        let said = if self.role == "assistant" { Source::Assistant } else { Source::Other };
        let fields = [
            ("role", Some(&self.role), Source::Other),
            ("content", Some(&self.content).filter(|_| !without_content), said),
            ("name", self.name.as_ref(), Source::Other),
            ("tool_call_id", self.tool_call_id.as_ref(), Source::Other),
            ("reasoning_content", self.reasoning_content.as_ref(), said),
            ("thinking", self.thinking.as_ref(), said),
        ];
        fields.into_iter().filter_map(|(name, text, source)| Some((name, text?.as_str(), source)))
    }
}

/// A prompt, and where special tokens spelled in it came from messages and are therefore text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// Byte offsets in `text` at which no special token may begin, ascending.
    guards: Vec<usize>,
}

impl Rendered {
    /// The prompt as text, exactly as the template gives it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Byte offsets at which no special token may begin, for [`Tokenizer::encode_guarded`].
    pub fn guards(&self) -> &[usize] {
        &self.guards
    }

    /// The prompt as token ids. No token is added: a template writes its own beginning-of-text token.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        tokenizer.encode_guarded(&self.text, &self.guards)
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    guard: Guard,
    has_tool_use: bool,
    /// The template tells arguments of tool calls that are a text from those that are an object.
    takes_text_arguments: bool,
    bos_token: String,
    eos_token: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("bos_token", &self.bos_token).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template for a tokenizer, whose special tokens messages may not forge.
    ///
    /// # Errors
    /// `limit-exceeded` for a source over 256 KiB, `template-error` for one that does not compile.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        ChatTemplate::with_tool_use(source, None, tokenizer)
    }

    /// The same with a template of its own for conversations with tools, where a model has two.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_tool_use(
        source: &str,
        tool_use: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate> {
        for source in [Some(source), tool_use].into_iter().flatten() {
            check_source(source)?;
        }
        let name = |id: Option<u32>| id.map(|id| tokenizer.token_name(id)).unwrap_or_default();
        let all = format!("{source}{}", tool_use.unwrap_or_default());
        Ok(ChatTemplate {
            environment: runtime::environment(source, tool_use).map_err(|error| runtime::convert(&error))?,
            guard: Guard::new(tokenizer.specials(), &all),
            has_tool_use: tool_use.is_some(),
            takes_text_arguments: all.contains("arguments is string"),
            bos_token: name(tokenizer.bos()),
            eos_token: name(tokenizer.eos()),
        })
    }

    /// The template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`], and `wrong-type`.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let tool_use = metadata.str(TOOL_USE_TEMPLATE)?;
        let source = metadata.str(CHAT_TEMPLATE)?.or(tool_use);
        source.map(|source| ChatTemplate::with_tool_use(source, tool_use, tokenizer)).transpose()
    }

    /// The template of a Hugging Face folder, if it has one: `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json`, which is a text or a list of named ones.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn from_hf(
        tokenizer_config: Option<&serde_json::Value>,
        chat_template_jinja: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>> {
        let field = tokenizer_config.and_then(|config| config.get("chat_template"));
        let named = |name: &str| {
            let found = field?.as_array()?.iter().find(|entry| entry["name"] == name)?;
            found["template"].as_str()
        };
        let tool_use = named("tool_use").filter(|_| chat_template_jinja.is_none());
        let text = || field.and_then(serde_json::Value::as_str);
        let source = chat_template_jinja.or_else(text).or_else(|| named("default")).or(tool_use);
        source.map(|source| ChatTemplate::with_tool_use(source, tool_use, tokenizer)).transpose()
    }

    /// The same template, taking the time for `strftime_now` from `clock`.
    pub fn with_clock(mut self, clock: Clock) -> ChatTemplate {
        runtime::set_clock(&mut self.environment, clock);
        self
    }

    /// Renders a conversation. `args` become variables of the template (`enable_thinking`, `date_string`, `tools`…).
    ///
    /// # Errors
    /// `template-error` with the template's own words when it refuses the messages, or saying which allowance is
    /// used up.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        args: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Rendered> {
        let render = |messages: &[ChatMessage], hide: bool| {
            let variables = |marks: &guard::Marks<'_>| {
                let list = messages.iter().map(|message| self.message_value(message, hide, marks)).collect();
                self.variables(list, add_generation_prompt, args, marks)
            };
            self.render_with(messages, args, variables)
        };
        let rendered = render(messages, true);
        // Some templates look into the content of every message, and fail where there is none.
        if rendered.is_err() && messages.iter().any(ChatMessage::is_silent) {
            return render(messages, false).or(rendered);
        }
        rendered
    }

    /// Runs the template on variables that are made once the marks for the texts are chosen.
    fn render_with(
        &self,
        messages: &[ChatMessage],
        args: &serde_json::Map<String, serde_json::Value>,
        variables: impl FnOnce(&guard::Marks<'_>) -> Vec<(String, Value)>,
    ) -> Result<Rendered> {
        let mut strings: Vec<&str> = Vec::with_capacity(messages.len() * 3);
        for message in messages {
            strings.extend(message.texts(false).map(|(_, text, _)| text));
        }
        let mut size: usize = strings.iter().map(|text| text.len()).sum();
        for value in messages.iter().flat_map(|message| &message.tool_calls).flatten().chain(args.values()) {
            size += json::collect_strings(value, &mut strings);
        }
        let marks = self.guard.marks_for(&strings)?;
        let mut output = BoundedOutput::new(OUTPUT_BASE + OUTPUT_FACTOR * size);
        let with_tools = args.get("tools").is_some_and(|tools| !tools.is_null());
        let name = if with_tools && self.has_tool_use { runtime::TOOL_USE } else { runtime::NAME };
        let variables = Value::from_object(OrderedMap::new(variables(&marks)));
        self.environment
            .get_template(name)
            .and_then(|template| template.render_captured_to(variables, &mut output))
            .map_err(|error| output.error().unwrap_or_else(|| runtime::convert(&error)))?;
        let (text, guards) = marks.unmark(&output.into_string()?);
        Ok(Rendered { text, guards })
    }

    /// What the template may name.
    fn variables(
        &self,
        messages: Vec<Value>,
        add_generation_prompt: bool,
        args: &serde_json::Map<String, serde_json::Value>,
        marks: &guard::Marks<'_>,
    ) -> Vec<(String, Value)> {
        let mut variables = vec![
            ("messages".to_string(), Value::from(messages)),
            ("add_generation_prompt".to_string(), Value::from(add_generation_prompt)),
            ("bos_token".to_string(), Value::from(self.bos_token.as_str())),
            ("eos_token".to_string(), Value::from(self.eos_token.as_str())),
            // Transformers passes these as None, and templates tell None from undefined.
            ("tools".to_string(), Value::from(())),
            ("documents".to_string(), Value::from(())),
        ];
        for (name, value) in args {
            variables.retain(|(known, _)| known != name);
            let mark = |text: &str| marks.mark(text, Source::Other).into_owned();
            variables.push((name.clone(), json::to_value(value, &mark)));
        }
        variables
    }

    /// A message as the template sees it, in the order in which Python's dict has the keys.
    /// `hide` leaves the content out of a message that is silent.
    fn message_value(&self, message: &ChatMessage, hide: bool, marks: &guard::Marks<'_>) -> Value {
        let mut fields: Vec<(String, Value)> = message
            .texts(hide && message.is_silent())
            .map(|(name, text, source)| (name.to_string(), Value::from(marks.mark(text, source))))
            .collect();
        if let Some(calls) = &message.tool_calls {
            let mark = |text: &str| marks.mark(text, Source::Other).into_owned();
            let convert = |call: &serde_json::Value| match self.takes_text_arguments {
                true => json::to_value(call, &mark),
                false => json::to_value(&with_object_arguments(call), &mark),
            };
            fields
                .push(("tool_calls".to_string(), Value::from(calls.iter().map(convert).collect::<Vec<_>>())));
        }
        Value::from_object(OrderedMap::new(fields))
    }
}

/// Refuses a template that is too long or nests too deep.
fn check_source(source: &str) -> Result<()> {
    if source.len() > MAX_SOURCE {
        let message =
            format!("the chat template has {} bytes, at most {MAX_SOURCE} are accepted", source.len());
        return Err(Error::new(ErrorCode::LimitExceeded, message).at(CHAT_TEMPLATE));
    }
    limits::check_nesting(source).map_err(|reason| {
        let message = format!("the chat template is too deep: {reason}");
        Error::new(ErrorCode::TemplateError, message).at(CHAT_TEMPLATE)
    })
}

/// The call with its arguments as an object. OpenAI's clients send them as a text of JSON, and a template that writes them
/// as JSON would quote it.
fn with_object_arguments(call: &serde_json::Value) -> serde_json::Value {
    let mut call = call.clone();
    for place in ["/function/arguments", "/arguments"] {
        if let Some(arguments) = call.pointer_mut(place)
            && let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
            && matches!(object, serde_json::Value::Object(_))
        {
            *arguments = object;
        }
    }
    call
}
