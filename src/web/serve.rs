//! What each kind of request does.
//!
//! Principal functions: [`serve`], for what needs the engine, and [`immediate`], for what does not. The bodies decoded
//! here are those of `Requests` in `protocol.ts`. Must not know the queue.

use std::cell::Cell;
use std::rc::Rc;

use js_sys::{Float32Array, Reflect, Uint8Array, Uint32Array};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use serde_wasm_bindgen::preserve;
use wasm_bindgen::{JsCast, JsValue};

use super::actor::{Out, Shared};
use super::load::{download, fit, load};
use super::pool::{Team, end_profile, start_profile};
use super::protocol::{Reply, Request, decode, encode, object};
use super::report::Reporter;
use super::request::{Abort, Turns};
use super::resolve::answered;
use super::store::Store;
use crate::backend::AnyBackend;
use crate::engine::{AdapterFile, AdapterId, EmbedRequest, Engine, Event};
use crate::error::{Error, ErrorCode, Result};
use crate::text::{ChatMessage, EncodeOptions};

/// Body of `tokenize`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenizeRequest {
    text: String,
    add_special: bool,
    parse_special: bool,
}

/// Body of `detokenize`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DetokenizeRequest {
    /// A `Uint32Array`, taken over in one copy instead of number by number.
    #[serde(with = "preserve")]
    ids: JsValue,
    skip_special: bool,
}

/// Body of `template`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateRequest {
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    template_args: Map<String, Value>,
}

/// Body of `forward`.
#[derive(Deserialize)]
struct ForwardRequest {
    /// A `Uint32Array`.
    #[serde(with = "preserve")]
    ids: JsValue,
    /// Logits after every token, not only the last.
    all: bool,
}

/// Body of `loadAdapter`: one file, or the two of a PEFT folder, each a `Uint8Array`.
#[derive(Deserialize)]
struct LoadAdapterRequest {
    #[serde(with = "preserve", default = "undefined")]
    gguf: JsValue,
    #[serde(with = "preserve", default = "undefined")]
    config: JsValue,
    #[serde(with = "preserve", default = "undefined")]
    tensors: JsValue,
    scale: f32,
    /// What the adapter is called where it is loaded already, by another worker.
    #[serde(default)]
    id: Option<AdapterId>,
}

fn undefined() -> JsValue {
    JsValue::UNDEFINED
}

/// Body of `removeAdapter`.
#[derive(Deserialize)]
struct RemoveAdapterRequest {
    id: AdapterId,
}

/// Body of `setAdapters`.
#[derive(Deserialize, Serialize)]
pub(super) struct SetAdaptersRequest {
    pub(super) scales: Vec<(AdapterId, f32)>,
}

/// Body of the requests about a stored model.
#[derive(Deserialize)]
struct ModelRequest {
    key: String,
    /// Of `pinModel`.
    #[serde(default)]
    pinned: bool,
}

/// Body of `abort`.
#[derive(Deserialize)]
struct AbortRequest {
    /// The number of the request to stop.
    target: u32,
}

/// Whether a request is answered at once, whatever runs.
pub(super) fn is_immediate(kind: &str) -> bool {
    matches!(
        kind,
        "abort"
            | "resolved"
            | "models"
            | "partStore"
            | "deleteModel"
            | "verifyModel"
            | "pinModel"
            | "exportModel"
            | "importModel"
    )
}

/// Serves a request that needs no engine.
pub(super) async fn immediate(shared: &Shared, request: Request) -> Reply {
    let result = match request.kind.as_str() {
        "abort" => decode(request.body).map(|AbortRequest { target }| {
            shared.abort(target);
            JsValue::NULL
        }),
        "resolved" => decode(request.body).map(|answer| {
            answered(answer);
            JsValue::NULL
        }),
        kind => stored(kind, request.body).await,
    };
    match result {
        Ok(value) => Reply::Result(request.id, value),
        Err(error) => Reply::Error(Some(request.id), error),
    }
}

/// What is asked about the models in storage.
async fn stored(kind: &str, body: JsValue) -> Result<JsValue> {
    let store = Store::open().await?;
    match kind {
        "models" => return Ok(encode(&store.list().await?)),
        "partStore" => return store.part_store().await,
        "importModel" => store.import(&body).await?,
        _ => {
            let ModelRequest { key, pinned } = decode(body)?;
            match kind {
                "verifyModel" => return Ok(encode(&store.verify(&key).await?)),
                "exportModel" => return store.export(&key).await,
                "pinModel" => store.pin(&key, pinned).await?,
                _ => store.delete_model(&key).await?,
            }
        }
    }
    Ok(JsValue::NULL)
}

/// Serves a request in its turn.
pub(super) async fn serve(shared: &Shared, request: Request, abort: &Rc<Abort>, out: &Out) {
    let id = request.id;
    // Stopped while it waited: it never gets its turn.
    let result = match abort.is_aborted() {
        true => Err(abort.error()),
        false => answer(shared, request, abort, out).await,
    };
    match result {
        Ok(Answer { value, buffer: Some(buffer) }) => {
            out.send_with_buffer(&Reply::Result(id, value), &buffer)
        }
        Ok(Answer { value, buffer: None }) => out.send(&Reply::Result(id, value)),
        Err(error) => out.send(&Reply::Error(Some(id), error)),
    }
}

/// A result, and the buffer whose memory goes with it.
struct Answer {
    value: JsValue,
    buffer: Option<JsValue>,
}

impl From<JsValue> for Answer {
    fn from(value: JsValue) -> Self {
        Answer { value, buffer: None }
    }
}

/// Does what the request asks for. The engine is taken out of its place meanwhile, so that no borrow is held over an
/// await, and is put back whatever the outcome: a request that failed leaves it usable.
async fn answer(shared: &Shared, request: Request, abort: &Rc<Abort>, out: &Out) -> Result<Answer> {
    let Request { id, kind, body } = request;
    if matches!(kind.as_str(), "load" | "fit" | "download") {
        let body = decode(body)?;
        let sender = out.clone();
        let reporter = Rc::new(Reporter::new(move |event| sender.send(&Reply::Event(id, event))));
        if kind == "fit" {
            return Ok(encode(&fit(&body, abort, &reporter).await?).into());
        }
        if kind == "download" {
            return Ok(JsValue::from(download(&body, abort, &reporter).await? as f64).into());
        }
        // The old model's memory is needed for the new one.
        drop(shared.take_engine());
        shared.put_team(None);
        let loaded = load(&body, abort, &reporter).await?;
        shared.put_engine(loaded.engine);
        shared.put_team(loaded.team);
        return Ok(encode(&loaded.info).into());
    }
    if !matches!(
        kind.as_str(),
        "chat"
            | "complete"
            | "embed"
            | "forward"
            | "tokenize"
            | "detokenize"
            | "template"
            | "loadAdapter"
            | "removeAdapter"
            | "setAdapters"
    ) {
        let message = format!("the worker knows no request \"{kind}\"");
        return Err(Error::new(ErrorCode::InvalidRequest, message).at("type"));
    }
    let Some(mut engine) = shared.take_engine() else {
        return Err(Error::new(ErrorCode::InvalidRequest, "no model is loaded in this worker").at("type"));
    };
    let turns = Turns::new(Rc::clone(abort));
    let profiled = Reflect::get(&body, &"profile".into()).is_ok_and(|profile| profile.is_truthy());
    if profiled {
        engine.session_mut().profile(true);
        start_profile();
    }
    let result = match kind.as_str() {
        "chat" => chat(&mut engine, body, &turns, id, out).await,
        "complete" => complete(&mut engine, body, &turns, id, out).await,
        "embed" => embed(&mut engine, body, &turns).await,
        "forward" => forward(&mut engine, body, &turns).await,
        "loadAdapter" | "removeAdapter" | "setAdapters" => {
            everywhere(&mut engine, &kind, body, shared.team()).await
        }
        _ => text_request(&engine, &kind, body),
    };
    if profiled {
        let profile = end_profile(engine.session_mut().profile(false)).await;
        if let Ok(Answer { value, .. }) = &result {
            // Only an object takes it.
            let _ = Reflect::set(value, &"profile".into(), &profile);
        }
    }
    shared.put_engine(engine);
    if let Some(threads) = shared.team().and_then(|team| team.changed()) {
        out.send(&Reply::Event(
            id,
            object([("kind", "threads".into()), ("threads", (threads as u32).into())]),
        ));
    }
    result
}

async fn chat(
    engine: &mut Engine<AnyBackend>,
    body: JsValue,
    turns: &Turns,
    id: u32,
    out: &Out,
) -> Result<Answer> {
    let outcome = engine.chat(decode(body)?, turns, events(id, out)).await?;
    Ok(encode(&outcome).into())
}

async fn complete(
    engine: &mut Engine<AnyBackend>,
    body: JsValue,
    turns: &Turns,
    id: u32,
    out: &Out,
) -> Result<Answer> {
    let outcome = engine.complete(decode(body)?, turns, events(id, out)).await?;
    Ok(encode(&outcome).into())
}

/// Passes the engine's events on. The first one of any kind means that the request's arguments were good.
fn events<'a>(id: u32, out: &'a Out) -> impl FnMut(Event) + 'a {
    let started = Cell::new(false);
    move |event| {
        if !started.replace(true) {
            out.send(&Reply::Event(id, object([("kind", "started".into())])));
        }
        if let Event::Text { text, logprobs, .. } = event
            && !(text.is_empty() && logprobs.is_empty())
        {
            let logprobs = if logprobs.is_empty() { JsValue::UNDEFINED } else { encode(&logprobs) };
            let event = object([("kind", "text".into()), ("text", text.into()), ("logprobs", logprobs)]);
            out.send(&Reply::Event(id, event));
        }
    }
}

/// All vectors in one array, which is given away with the reply.
async fn embed(engine: &mut Engine<AnyBackend>, body: JsValue, turns: &Turns) -> Result<Answer> {
    let request: EmbedRequest = decode(body)?;
    let embeddings = engine.embed(&request, turns).await?;
    let vectors = Float32Array::from(embeddings.vectors.concat().as_slice());
    let buffer = JsValue::from(vectors.buffer());
    let tokens = JsValue::from(embeddings.prompt_tokens as u32);
    Ok(Answer {
        value: object([("vectors", vectors.into()), ("promptTokens", tokens)]),
        buffer: Some(buffer),
    })
}

/// Logits go to the page without a copy: their buffer is given away with the reply.
async fn forward(engine: &mut Engine<AnyBackend>, body: JsValue, turns: &Turns) -> Result<Answer> {
    let ForwardRequest { ids, all } = decode(body)?;
    let logits = engine.forward(&token_ids(&ids)?, all, turns).await?;
    let n_vocab = JsValue::from(engine.summary().n_vocab as u32);
    let logits = Float32Array::from(logits.as_slice());
    let buffer = JsValue::from(logits.buffer());
    Ok(Answer { value: object([("logits", logits.into()), ("nVocab", n_vocab)]), buffer: Some(buffer) })
}

/// Changes the adapters of this engine, then of the other workers' that it runs on.
async fn everywhere(
    engine: &mut Engine<AnyBackend>,
    kind: &str,
    body: JsValue,
    team: Option<Rc<Team>>,
) -> Result<Answer> {
    let answer = adapters(engine, kind, body.clone()).await?;
    if let Some(team) = team {
        team.change_adapters(kind, body, &answer, engine.adapter_scales()).await;
    }
    Ok(answer.into())
}

/// The requests that change adapters.
pub(super) async fn adapters(engine: &mut Engine<AnyBackend>, kind: &str, body: JsValue) -> Result<JsValue> {
    match kind {
        "loadAdapter" => return load_adapter(engine, body).await,
        "removeAdapter" => {
            let RemoveAdapterRequest { id } = decode(body)?;
            engine.remove_adapter(id).await?;
        }
        _ => {
            let SetAdaptersRequest { scales } = decode(body)?;
            engine.set_adapters(&scales).await?;
        }
    }
    Ok(JsValue::NULL)
}

async fn load_adapter(engine: &mut Engine<AnyBackend>, body: JsValue) -> Result<JsValue> {
    let LoadAdapterRequest { gguf, config, tensors, scale, id } = decode(body)?;
    engine.number_adapters_from(id.unwrap_or_default());
    let bytes = |value: &JsValue| value.dyn_ref::<Uint8Array>().map(Uint8Array::to_vec);
    let id = match (bytes(&gguf), bytes(&config), bytes(&tensors)) {
        (Some(gguf), None, None) => engine.load_adapter(AdapterFile::Gguf(&gguf), scale).await?,
        (None, Some(config), Some(tensors)) => {
            let file = AdapterFile::Peft { config: &config, tensors: &tensors };
            engine.load_adapter(file, scale).await?
        }
        _ => {
            let message = "an adapter is one GGUF file, or config and tensors, each a Uint8Array";
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("gguf"));
        }
    };
    Ok(JsValue::from(id))
}

/// The requests that only convert between texts and tokens.
fn text_request(engine: &Engine<AnyBackend>, kind: &str, body: JsValue) -> Result<Answer> {
    let value = match kind {
        "tokenize" => {
            let TokenizeRequest { text, add_special, parse_special } = decode(body)?;
            let ids = engine.tokenize(&text, EncodeOptions { add_special, parse_special });
            Uint32Array::from(ids.as_slice()).into()
        }
        "detokenize" => {
            let DetokenizeRequest { ids, skip_special } = decode(body)?;
            engine.detokenize(&token_ids(&ids)?, skip_special)?.into()
        }
        _ => {
            let request: TemplateRequest = decode(body)?;
            let templated = engine.apply_chat_template(
                &request.messages,
                request.add_generation_prompt,
                &request.template_args,
            )?;
            let ids = Uint32Array::from(templated.ids.as_slice());
            object([("text", templated.text.into()), ("ids", ids.into())])
        }
    };
    Ok(Answer::from(value))
}

fn token_ids(ids: &JsValue) -> Result<Vec<u32>> {
    match ids.dyn_ref::<Uint32Array>() {
        Some(ids) => Ok(ids.to_vec()),
        None => Err(Error::new(ErrorCode::InvalidRequest, "ids must be a Uint32Array").at("ids")),
    }
}
