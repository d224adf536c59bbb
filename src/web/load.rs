//! From a load request to an engine: which backend, which bytes, in which order.
//!
//! Principal function: [`load`]. Must not know messages, nor how bytes are fetched or kept.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_wasm_bindgen::preserve;
use wasm_bindgen::{JsCast, JsValue};
use web_time::Instant;

use super::device;
use super::files::{Expected, Files, Place, named};
use super::pipeline::fill;
use super::report::{Phase, Reporter, Warning};
use super::request::Abort;
use super::task::{event_loop_turn, wasm_memory_bytes};
use crate::backend::cpu::{CpuBackend, CpuMode};
use crate::backend::{AnyBackend, Backend};
use crate::engine::{Engine, LoadOptions, Loading, ModelSummary};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::{PART_BYTES, Recipe};

/// Weights that fit the 4 GiB of a wasm memory beside their KV cache and everything else.
const MAX_CPU_BYTES: u64 = 3400 << 20;
/// How often a load begins anew because the file changed under it.
const MAX_RESTARTS: u32 = 2;

/// Which backend the page asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// WebGPU when it is there and right, else the CPU.
    Auto,
    /// WebGPU or an error.
    WebGpu,
    /// The CPU.
    Cpu,
}

/// Half floats on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// Where the device has them.
    Auto,
    /// Wanted.
    F16,
    /// Not wanted.
    F32,
}

/// What a `load` request brings (`protocol.ts`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadRequest {
    source: Source,
    backend: BackendChoice,
    gpu_precision: PrecisionChoice,
    /// Positions of the KV cache; the engine's default when absent.
    #[serde(default)]
    context_length: Option<u32>,
    /// The format that float weights are turned into; their own when absent.
    #[serde(default)]
    quantize: Option<String>,
    /// Whether to keep parts in IndexedDB; a Blob is never kept.
    cache: bool,
    /// Whether other models may be removed to make room for this one.
    #[serde(default)]
    evict: bool,
}

/// A URL, a folder's URL, several URLs, a Blob or several. Not an enum: serde would have to buffer it, and a Blob cannot be.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    kind: SourceKind,
    /// Absolute: the page has resolved it against its own address.
    #[serde(default)]
    url: String,
    /// Sent with every request for the file, and stored nowhere.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Replaces the key that follows from the URL.
    #[serde(default)]
    cache_key: Option<String>,
    /// What the files must be, by name, as far as the page knows.
    #[serde(default)]
    expected: BTreeMap<String, Expected>,
    #[serde(with = "preserve", default = "undefined")]
    blob: JsValue,
    /// `[{ name, blob }]` or `[{ name, url }]`
    #[serde(with = "preserve", default = "undefined")]
    files: JsValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceKind {
    Url,
    Urls,
    Folder,
    Blob,
    Files,
}

fn undefined() -> JsValue {
    JsValue::UNDEFINED
}

/// `EngineInfo` of types.ts, but for the adapter, which the page describes itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    backend: &'static str,
    backend_reason: String,
    model: ModelSummary,
    context_length: usize,
    memory: Memory,
    load: LoadFacts,
    warnings: Vec<Warning>,
    version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    /// Weights, KV cache and workspace, wherever the backend has them.
    backend_bytes: u64,
    /// Of the whole wasm memory; on the GPU path it holds no weights.
    wasm_bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadFacts {
    /// No byte came over the network.
    from_cache: bool,
    /// Storage took part to the end, so the next load can come from there.
    cached: bool,
    seconds: f64,
    network_bytes: u64,
}

/// An engine and what the page is told of it.
pub struct Loaded {
    /// Ready for requests.
    pub engine: Engine<AnyBackend>,
    /// The answer to the load request.
    pub info: Info,
}

/// Loads a model. Begins anew when the file on the server changed since its parts were stored, and on the CPU when
/// `auto` took a GPU that then failed.
/// # Errors
/// What the header, the origin or the backend says; `Aborted`.
pub async fn load(request: &LoadRequest, abort: &Rc<Abort>, reporter: &Rc<Reporter>) -> Result<Loaded> {
    let started = Instant::now();
    let mut choice = request.backend;
    let mut fallback = None;
    let mut restarts = 0;
    loop {
        let Source { headers, cache_key, expected, .. } = &request.source;
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let (place, cache_key) = (place(&request.source)?, cache_key.clone());
        let file = Files::new(place, headers, request.cache, cache_key, reporter);
        let file = Rc::new(file.expecting(expected.clone()));
        let cancelled = Rc::clone(&file);
        abort.on_abort(move || cancelled.cancel());
        let result = attempt(request, choice, &file, abort, reporter).await;
        match result {
            Ok((engine, reason)) => {
                file.end().await;
                let reason = fallback.unwrap_or(reason);
                let info = info(&engine, reason, &file, reporter, started);
                reporter.phase(Phase::Ready);
                return Ok(Loaded { engine, info });
            }
            Err(_) if abort.is_aborted() => return Err(abort.error()),
            Err(error) if file.changed() && restarts < MAX_RESTARTS => {
                restarts += 1;
                file.discard().await;
                reporter.warn_of(&error, "the download begins anew");
            }
            Err(error) if choice == BackendChoice::Auto && is_gpu_fault(error.code()) => {
                choice = BackendChoice::Cpu;
                fallback = Some(format!("the CPU, because WebGPU failed: {}", error.message()));
            }
            Err(error) => return Err(error),
        }
        // The page keeps its progress from falling back; ours counts the new try's bytes.
        reporter.restart();
    }
}

fn is_gpu_fault(code: ErrorCode) -> bool {
    use ErrorCode::{GpuCheckFailed, GpuLost, GpuUnavailable, OutOfMemory};
    matches!(code, GpuUnavailable | GpuLost | GpuCheckFailed | OutOfMemory)
}

/// Where the model is that a request asks for.
fn place(source: &Source) -> Result<Place> {
    Ok(match source.kind {
        SourceKind::Url => Place::Url(source.url.clone()),
        SourceKind::Folder => Place::Folder(source.url.clone()),
        SourceKind::Urls => Place::Urls(named(&source.files, "url", |url| url.as_string())?),
        SourceKind::Files => Place::Blobs(named(&source.files, "blob", |blob| blob.dyn_into().ok())?),
        SourceKind::Blob => match source.blob.dyn_ref::<web_sys::Blob>() {
            Some(blob) => Place::Blobs(vec![("model.gguf".to_owned(), blob.clone())]),
            None => {
                let message = "a source of the kind blob needs a File or Blob";
                return Err(Error::new(ErrorCode::InvalidRequest, message).at("source.blob"));
            }
        },
    })
}

/// One try on one backend. Gives the engine, and in one sentence why this backend.
async fn attempt(
    request: &LoadRequest,
    choice: BackendChoice,
    file: &Rc<Files>,
    abort: &Abort,
    reporter: &Rc<Reporter>,
) -> Result<(Engine<AnyBackend>, String)> {
    // Before any download: a model that cannot be used as asked for need not be fetched.
    let found = match choice {
        BackendChoice::Cpu => Err(Error::new(ErrorCode::GpuUnavailable, "the CPU was asked for")),
        BackendChoice::Auto | BackendChoice::WebGpu => device::find().await,
    };
    if choice == BackendChoice::WebGpu
        && let Err(error) = found
    {
        return Err(error);
    }
    reporter.phase(Phase::Header);
    let model = file.model().await?;
    let n_ctx = request.context_length.map(|n| n as usize);
    let loading = {
        let quantize = request.quantize.as_deref().map(Recipe::named).transpose()?.map(|recipe| recipe.to());
        Loading::new(model, LoadOptions { n_ctx, n_batch: None, quantize })?
    };
    let parts = loading.weights().parts(PART_BYTES);
    let data_ends: Vec<u64> = (0..file.all().len())
        .map(|index| {
            parts.iter().filter(|part| part.file == index).map(|part| part.range.end).max().unwrap_or(0)
        })
        .collect();
    reporter.total(data_ends.iter().sum());
    let (mut backend, reason) = match found {
        Ok(device) => device::backend(device, &loading, request.gpu_precision, reporter).await?,
        Err(error) => cpu_backend(&loading, &error)?,
    };
    if abort.is_aborted() {
        return Err(abort.error());
    }
    file.begin(&loading.summary().name, &data_ends, request.evict).await;
    fill(&mut backend, loading.weights(), parts, file, abort, reporter).await?;
    reporter.phase(Phase::Checking);
    event_loop_turn().await;
    backend.finish_upload().await?;
    Ok((loading.into_engine(backend), reason))
}

/// A backend on the CPU, because of `why` there is no other; refused before the download when it cannot be.
fn cpu_backend(loading: &Loading, why: &Error) -> Result<(AnyBackend, String)> {
    let plan = loading.plan();
    let total = CpuBackend::weight_bytes(&plan);
    // Running out of memory in the middle of the upload would be a trap, not an error.
    if total > MAX_CPU_BYTES {
        let gib = total as f64 / (1u64 << 30) as f64;
        let message = format!(
            "the model's weights take {gib:.1} GiB on the CPU path ({}), which do not fit its memory; take a smaller \
             model, the option `quantize`, or a browser with WebGPU",
            why.message()
        );
        return Err(Error::new(ErrorCode::OutOfMemory, message));
    }
    let backend = AnyBackend::Cpu(CpuBackend::new(plan, CpuMode::Fast)?);
    Ok((backend, format!("the CPU: {}", why.message())))
}

fn info(
    engine: &Engine<AnyBackend>,
    backend_reason: String,
    file: &Files,
    reporter: &Reporter,
    started: Instant,
) -> Info {
    let backend = engine.session().backend();
    let network_bytes = file.network_bytes();
    Info {
        backend: match backend {
            AnyBackend::Cpu(_) => "cpu",
            #[cfg(feature = "gpu")]
            AnyBackend::Gpu(_) => "webgpu",
        },
        backend_reason,
        model: engine.summary().clone(),
        context_length: engine.session().n_ctx(),
        memory: Memory { backend_bytes: backend.memory_bytes(), wasm_bytes: wasm_memory_bytes() },
        load: LoadFacts {
            from_cache: network_bytes == 0 && file.cache_bytes() > 0,
            cached: file.is_cached(),
            seconds: started.elapsed().as_secs_f64(),
            network_bytes,
        },
        warnings: reporter.warnings(),
        version: env!("CARGO_PKG_VERSION"),
    }
}
