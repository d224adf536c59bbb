//! What a worker of a pool does that does not lead it: reads its own rows of the model, and runs the steps it is told.
//!
//! Principal function: [`serve_shard`]. It holds an engine over its shard, made from the same headers as the leader's, so
//! that adapters change both alike. Must not know pages, storage or the network.

use std::cell::RefCell;
use std::ops::Range;

use js_sys::{Promise, Reflect, Uint32Array};
use serde::{Deserialize, Serialize};
use serde_wasm_bindgen::preserve;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

use super::files::named;
use super::measure;
use super::pool::{JsLink, WebLink, outputs_of};
use super::protocol::{decode, encode, error_object};
use super::serve;
use super::store::{read_blob, read_slice};
use super::task::{describe, wasm_memory_bytes};
use super::upload::{Uploader, Window};
use crate::backend::cpu::{CpuMode, CpuShard};
use crate::backend::{AnyBackend, Backend};
use crate::engine::{Engine, LoadOptions, Loading, ModelFiles, ModelFolder, open_files};
use crate::error::{Error, ErrorCode, Result};
use crate::model::shard::Split;
use crate::weights::ByteSource;

#[wasm_bindgen]
extern "C" {
    /// `Shard` of pool.ts.
    pub type JsShard;

    #[wasm_bindgen(method, getter)]
    fn link(this: &JsShard) -> JsLink;

    #[wasm_bindgen(method)]
    fn next(this: &JsShard) -> Promise;
}

thread_local! {
    static ENGINE: RefCell<Option<Engine<AnyBackend>>> = const { RefCell::new(None) };
}

/// What the leader says of the model; its files' beginnings are Blobs.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadShard {
    pub(super) count: usize,
    pub(super) least: usize,
    #[serde(default)]
    pub(super) context_length: Option<u32>,
    #[serde(default)]
    pub(super) quantize: Option<String>,
    #[serde(default)]
    pub(super) kv_cache: Option<String>,
    /// The name of a GGUF file, where the model was named by one.
    #[serde(default)]
    pub(super) gguf: Option<String>,
    /// The files' names, where they were listed.
    #[serde(default)]
    pub(super) listed: Option<Vec<String>>,
    /// Small files, `[{ name, blob }]`: all that were looked for and found.
    #[serde(with = "preserve")]
    pub(super) small: JsValue,
    /// Large files' beginnings in the order in which they were opened, `[{ name, blob }]`: the name is the file's size.
    #[serde(with = "preserve")]
    pub(super) heads: JsValue,
}

/// A part of a model's file.
#[derive(Deserialize)]
struct Part {
    file: usize,
    start: u64,
    end: u64,
    #[serde(with = "preserve")]
    blob: JsValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StepRequest {
    #[serde(with = "preserve")]
    tokens: JsValue,
    pos: usize,
    outputs: u32,
    sequence: usize,
    long_rope: bool,
}

/// Does what the leader asks.
/// # Errors
/// As plain objects.
#[wasm_bindgen(js_name = serveShard)]
pub async fn serve_shard(
    kind: String,
    body: JsValue,
    shard: JsShard,
) -> std::result::Result<JsValue, JsValue> {
    let result = async {
        if kind == "load" {
            let engine = load(decode(body)?, &shard).await?;
            let held = [engine.session().backend().memory_bytes(), wasm_memory_bytes()];
            ENGINE.set(Some(engine));
            return Ok(encode(&held));
        }
        match kind.as_str() {
            "speed" => return Ok(measure::speed().await?.into()),
            "rounds" => {
                return Ok(measure::rounds(&mut WebLink::new(shard.link()), decode(body)?).await?.into());
            }
            _ => {}
        }
        let Some(mut engine) = ENGINE.take() else {
            return Err(Error::new(ErrorCode::Internal, "a shard without a model"));
        };
        let result = match kind.as_str() {
            "step" => step(&mut engine, body).await,
            kind => serve::adapters(&mut engine, kind, body).await,
        };
        ENGINE.set(Some(engine));
        result
    };
    result.await.map_err(|error| error_object(&error))
}

async fn load(request: LoadShard, shard: &JsShard) -> Result<Engine<AnyBackend>> {
    let blob = |value: JsValue| value.dyn_into::<Blob>().ok();
    let folder = Heads {
        listed: request.listed.clone(),
        small: named(&request.small, "blob", blob)?,
        heads: RefCell::new(named(&request.heads, "blob", blob)?),
    };
    let which = match (request.gguf, request.listed) {
        (Some(name), _) => ModelFiles::Gguf(name),
        (None, Some(names)) => ModelFiles::Chosen(names),
        (None, None) => ModelFiles::Folder,
    };
    let (_, model) = open_files(&folder, which).await?;
    let n_ctx = request.context_length.map(|n| n as usize);
    let (quantize, kv_cache) = (request.quantize.as_deref(), request.kv_cache.as_deref());
    let options = LoadOptions::named(n_ctx, quantize, kv_cache)?;
    let loading = Loading::new(model, LoadOptions { without_text: true, ..options })?;
    let link = WebLink::new(shard.link());
    let index = crate::backend::cpu::Link::index(&link);
    let split = Split { index, count: request.count, least: request.least };
    let own = CpuShard::new(loading.plan(), CpuMode::Fast, split, Box::new(link))?;
    let mut backend = AnyBackend::CpuShard(own);
    let mut uploader = Uploader::new(loading.weights());
    loop {
        let part = JsFuture::from(shard.next()).await.map_err(unreadable)?;
        if part.is_null() {
            break;
        }
        let Part { file, start, end, blob } = decode(part)?;
        let window = Window::of(blob.unchecked_into());
        uploader.upload(&mut backend, file, start..end, window).await?;
    }
    uploader.finish(&mut backend)?;
    backend.finish_upload().await?;
    Ok(loading.into_engine(backend))
}

async fn step(engine: &mut Engine<AnyBackend>, body: JsValue) -> Result<JsValue> {
    let StepRequest { tokens, pos, outputs, sequence, long_rope } = decode(body)?;
    let tokens = tokens.unchecked_into::<Uint32Array>().to_vec();
    let backend = engine.session_mut().backend_mut();
    backend.select(sequence);
    backend.use_long_rope(long_rope);
    backend.forward(&tokens, pos, outputs_of(outputs)).await?;
    Ok(JsValue::NULL)
}

/// The files as far as the leader has read them.
struct Heads {
    listed: Option<Vec<String>>,
    small: Vec<(String, Blob)>,
    heads: RefCell<Vec<(String, Blob)>>,
}

impl ModelFolder for Heads {
    type File = Head;

    async fn list(&self) -> Result<Option<Vec<String>>> {
        Ok(self.listed.clone())
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.small.iter().find(|(other, _)| other == name) {
            Some((_, blob)) => Ok(Some(read_blob(blob).await.map_err(unreadable)?.to_vec())),
            None => Ok(None),
        }
    }

    async fn open(&self, name: &str) -> Result<Head> {
        let mut heads = self.heads.borrow_mut();
        if heads.is_empty() {
            return Err(Error::new(ErrorCode::Internal, "a file that the leader did not open").at(name));
        }
        let (size, blob) = heads.remove(0);
        Ok(Head { size: size.parse().ok(), blob })
    }
}

/// A file's beginning.
struct Head {
    size: Option<u64>,
    blob: Blob,
}

impl ByteSource for Head {
    fn size(&self) -> Option<u64> {
        self.size
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        Ok(read_slice(&self.blob, range).await.map_err(unreadable)?.to_vec())
    }
}

fn unreadable(thrown: JsValue) -> Error {
    let text = Reflect::get(&thrown, &"message".into()).ok().and_then(|message| message.as_string());
    let message = text.unwrap_or_else(|| describe(&thrown));
    Error::new(ErrorCode::Io, format!("a worker cannot read the model: {message}"))
}
