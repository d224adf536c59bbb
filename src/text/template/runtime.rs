//! The template engine, set up as Transformers sets up Jinja2, within bounds.
//!
//! Principal function: [`environment`]. Must not know messages.

use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Value};
use minijinja::{Environment, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::json::tojson;
use super::time::{Clock, strftime, system_clock};
use crate::error::{Error, ErrorCode, Result};

/// The template's name in its environment and in messages.
pub(super) const NAME: &str = "chat_template";

/// The name of the template for conversations with tools.
pub(super) const TOOL_USE: &str = "tool_use";

/// Instructions that a rendering may take: hundreds of times what a long conversation needs, under a second of work.
const FUEL: u64 = 10_000_000;

/// Nested calls and scopes; a recursive macro over a JSON schema needs a dozen. The wasm stack bounds it.
const RECURSION: usize = 100;

/// Compiles `source` and the template for tools, if any, into an environment with what chat templates may call.
pub(super) fn environment(
    source: &str,
    tool_use: Option<&str>,
) -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let whitespace = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(whitespace);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_function("raise_exception", raise_exception);
    set_clock(&mut environment, system_clock());
    environment.add_template_owned(NAME, prepared(source))?;
    if let Some(source) = tool_use {
        environment.add_template_owned(TOOL_USE, prepared(source))?;
    }
    Ok(environment)
}

/// Makes `strftime_now` tell the time of `clock`.
pub(super) fn set_clock(environment: &mut Environment<'static>, clock: Clock) {
    environment.add_function("strftime_now", move |format: &str| strftime(format, clock()));
}

/// The length of a value; of nothing it is 0, as in Jinja2.
fn length(value: &Value) -> std::result::Result<usize, minijinja::Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}

/// The source as Jinja2 reads it: whatever ends its lines, texts in it have line feeds.
fn prepared(source: &str) -> String {
    without_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// `{% generation %}` marks replies for training; for rendering it is an `if` that always holds.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        let Some((tag, _)) = tag.split_once("%}") else {
            break;
        };
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replacen(word, " if true ", 1)),
            "endgeneration" => out.push_str(&tag.replacen(word, " endif ", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[before.len() + tag.len()..];
    }
    out + rest
}

/// What a template said when it refused its input.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: Value) -> std::result::Result<Value, minijinja::Error> {
    let message = message.to_string();
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

/// An engine error as ours: a refusal in the template's own words, everything else with its place.
pub(super) fn convert(error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut message = String::new();
    while let Some(error) = cause {
        if let Some(Raised(words)) = error.downcast_ref::<Raised>() {
            return Error::new(ErrorCode::TemplateError, words.clone()).at("messages");
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&error.to_string());
        cause = error.source();
    }
    let message = format!("the chat template failed: {message}");
    Error::new(ErrorCode::TemplateError, message).at("tokenizer.chat_template")
}

/// Takes rendered text up to a limit. The engine writes as it goes, so a flood stops at the limit and not after it.
pub(super) struct BoundedOutput {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl BoundedOutput {
    pub(super) fn new(limit: usize) -> BoundedOutput {
        BoundedOutput { bytes: Vec::new(), limit, exceeded: false }
    }

    /// The error to report when the limit was what stopped the rendering.
    pub(super) fn error(&self) -> Option<Error> {
        let message = format!("the chat template wrote more than {} bytes", self.limit);
        self.exceeded.then(|| Error::new(ErrorCode::TemplateError, message).at("tokenizer.chat_template"))
    }

    pub(super) fn into_string(self) -> Result<String> {
        String::from_utf8(self.bytes).map_err(|error| {
            Error::new(ErrorCode::TemplateError, "the chat template wrote bytes that are not UTF-8")
                .caused_by(error)
        })
    }
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A mapping that keeps the order of its keys, as Python's dict does: `tojson` and loops show it.
#[derive(Debug)]
pub(super) struct OrderedMap {
    fields: Vec<(String, Value)>,
}

impl OrderedMap {
    pub(super) fn new(fields: Vec<(String, Value)>) -> OrderedMap {
        OrderedMap { fields }
    }
}

impl Object for OrderedMap {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.fields.iter().map(|(name, _)| Value::from(name.as_str())).collect())
    }
}
