//! What page and worker say to each other, as plain objects; `pkg/src/protocol.ts` is the other side of it.
//!
//! Principal types: [`Request`] and [`Reply`]. A request is decoded in two steps, envelope and body, so that whatever
//! is wrong with it becomes an error reply with the request's own number. Must not know how a request is served.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_wasm_bindgen::preserve;
use wasm_bindgen::{JsCast, JsValue};

use crate::error::{Error, ErrorCode, Result};

/// Sent with every request; another version is refused. Equal to the one in `protocol.ts` (a test holds that).
pub const PROTOCOL_VERSION: u32 = 1;

/// A request whose envelope was sound.
#[derive(Debug)]
pub struct Request {
    /// Chosen by the page; every reply carries it.
    pub id: u32,
    /// Which request, such as `chat`.
    pub kind: String,
    /// Decoded by who serves the request.
    pub body: JsValue,
}

#[derive(Deserialize)]
struct Envelope {
    v: u32,
    #[serde(rename = "type")]
    kind: String,
    #[serde(with = "preserve", default = "undefined")]
    body: JsValue,
}

fn undefined() -> JsValue {
    JsValue::UNDEFINED
}

impl Request {
    /// Reads the envelope of a message.
    /// # Errors
    /// The request's number where it has one (else `None`), and what is wrong.
    pub fn decode(message: JsValue) -> std::result::Result<Request, (Option<u32>, Error)> {
        let id = js_sys::Reflect::get(&message, &"id".into()).ok().and_then(|id| id.as_f64());
        let id = id.filter(|id| id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(id));
        let Some(id) = id.map(|id| id as u32) else {
            let message = "a message to the worker needs a whole number as its id";
            return Err((None, Error::new(ErrorCode::InvalidRequest, message).at("id")));
        };
        let envelope: Envelope = decode(message).map_err(|error| (Some(id), error))?;
        if envelope.v != PROTOCOL_VERSION {
            let message = format!(
                "the page speaks version {} of the protocol, the worker {PROTOCOL_VERSION}; reload the page, or build \
                 both from the same release",
                envelope.v
            );
            return Err((Some(id), Error::new(ErrorCode::InvalidRequest, message).at("v")));
        }
        Ok(Request { id, kind: envelope.kind, body: envelope.body })
    }
}

/// Decodes a value that came from the page.
/// # Errors
/// `InvalidRequest` with the decoder's own words.
pub fn decode<T: DeserializeOwned>(value: JsValue) -> Result<T> {
    serde_wasm_bindgen::from_value(value).map_err(crate::engine::invalid_request)
}

/// A value for the page: maps become plain objects, `None` becomes `undefined`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> JsValue {
    let serializer = serde_wasm_bindgen::Serializer::new().serialize_maps_as_objects(true);
    value.serialize(&serializer).expect("invariant: replies hold only strings, safe numbers and objects")
}

/// An answer to the page, as `Reply` of `protocol.ts`.
#[derive(Debug)]
pub enum Reply {
    /// The request is done.
    Result(u32, JsValue),
    /// The request failed; `None` when it had no number.
    Error(Option<u32>, Error),
    /// Something on the way, one of `WorkerEvent`.
    Event(u32, JsValue),
}

impl Reply {
    /// The plain object that is posted.
    pub fn to_js(&self) -> JsValue {
        let (id, kind, value) = match self {
            Reply::Result(id, value) => (JsValue::from(*id), "result", value.clone()),
            Reply::Event(id, value) => (JsValue::from(*id), "event", value.clone()),
            Reply::Error(id, error) => {
                (id.map_or(JsValue::NULL, JsValue::from), "error", error_object(error))
            }
        };
        object([("id", id), ("type", kind.into()), (kind, value)])
    }
}

/// Code, message and field exactly as in Rust.
pub(super) fn error_object(error: &Error) -> JsValue {
    let code = ("code", JsValue::from(error.code().as_str()));
    let message = ("message", JsValue::from(error.message()));
    match error.field() {
        Some(field) => object([code, message, ("field", field.into())]),
        None => object([code, message]),
    }
}

/// A plain object of the given properties.
pub fn object<const N: usize>(properties: [(&str, JsValue); N]) -> JsValue {
    let object = js_sys::Object::new();
    for (name, value) in properties {
        js_sys::Reflect::set(&object, &name.into(), &value)
            .expect("invariant: a new plain object takes properties");
    }
    object.unchecked_into()
}

/// A message that passes the actor's codec as it is, in either direction: sound or not is for others to say.
#[derive(Debug, Serialize, Deserialize)]
pub struct Raw(#[serde(with = "preserve")] pub JsValue);
