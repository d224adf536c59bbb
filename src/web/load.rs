//! From a load request to an engine: which backend, which bytes, in which order.
//!
//! Principal function: [`load`]. Must not know messages, nor how bytes are fetched or kept.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_wasm_bindgen::preserve;
use wasm_bindgen::{JsCast, JsValue};
use web_time::Instant;

use super::crew::{self, Crew};
use super::device;
use super::files::{Expected, Files, Place, named};
use super::pipeline::Pipeline;
use super::pool::Team;
use super::report::{Phase, Reporter, Warning};
use super::request::Abort;
use super::task::{event_loop_turn, wasm_memory_bytes};
use crate::backend::cpu::{CpuBackend, CpuMode, CpuShard};
use crate::backend::{AnyBackend, Backend, Footprint, ModelPlan, kv_format};
use crate::engine::{Engine, LoadOptions, Loading, ModelSummary};
use crate::error::{Error, ErrorCode, Result};
use crate::model::shard::{Split, Work};
use crate::weights::PART_BYTES;

/// What fits the 4 GiB of a wasm memory beside the tokenizer and what is being read.
const MAX_CPU_BYTES: u64 = 3700 << 20;
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
    pub(super) context_length: Option<u32>,
    /// Texts that are kept; one when absent.
    #[serde(default)]
    sequences: Option<u32>,
    /// The format that float weights are turned into; their own when absent.
    #[serde(default)]
    pub(super) quantize: Option<String>,
    /// The format that keys and values are kept in; what suits the backend when absent.
    #[serde(default)]
    pub(super) kv_cache: Option<String>,
    /// Whether the GPU's kernels are measured on the first visit; where it is not software when absent.
    #[serde(default)]
    tune: Option<bool>,
    /// Workers on the CPU; as many as are worth it when absent.
    #[serde(default)]
    pub(super) threads: Option<u32>,
    /// Whether the page answers when it is asked for another address of a file.
    #[serde(default)]
    resolves: bool,
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
    /// Workers that compute.
    threads: usize,
    /// How the GPU was found to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<device::Facts>,
    /// How they exchange what they have computed, where they are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<String>,
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
    /// Of the whole wasm memory, of all workers; on the GPU path it holds no weights.
    wasm_bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadFacts {
    /// No byte came over the network.
    from_cache: bool,
    /// Storage took part to the end, so the next load can come from there.
    cached: bool,
    /// Where new parts are kept, if any were.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'static str>,
    seconds: f64,
    /// Of these, after the last weight was in place: the rest of making pipelines, and checks.
    ready_ms: f64,
    network_bytes: u64,
}

/// An engine and what the page is told of it.
pub struct Loaded {
    /// Ready for requests.
    pub engine: Engine<AnyBackend>,
    /// The answer to the load request.
    pub info: Info,
    /// The other workers that it runs on.
    pub team: Option<Rc<Team>>,
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
        let file = files(request, abort, reporter)?;
        let found = find_device(choice).await?;
        let on_gpu = found.is_ok();
        let result = attempt(request, found, &file, abort, reporter).await;
        match result {
            Ok((engine, (reason, gpu), crew)) => {
                file.end().await;
                let reason = fallback.unwrap_or(reason);
                let info = info(&engine, (reason, gpu), crew.as_ref(), &file, reporter, started);
                reporter.phase(Phase::Ready);
                return Ok(Loaded { engine, info, team: crew.map(|crew| crew.team) });
            }
            Err(_) if abort.is_aborted() => return Err(abort.error()),
            Err(error) if begins_anew(&file, &mut restarts, &error, reporter).await => {}
            Err(error) if on_gpu && choice == BackendChoice::Auto && is_gpu_fault(error.code()) => {
                choice = BackendChoice::Cpu;
                fallback = Some(format!("the CPU, because WebGPU failed: {}", error.message()));
            }
            Err(error) => return Err(error),
        }
        // The page keeps its progress from falling back; ours counts the new try's bytes.
        reporter.restart();
    }
}

/// Whether a load that failed begins anew, because what it has read so far is of no use.
async fn begins_anew(file: &Files, restarts: &mut u32, error: &Error, reporter: &Reporter) -> bool {
    if !file.must_begin_anew() || *restarts == MAX_RESTARTS {
        return false;
    }
    *restarts += 1;
    file.discard().await;
    reporter.warn_of(error, "the download begins anew");
    true
}

/// The files that a request asks for, which its abort stops.
fn files(request: &LoadRequest, abort: &Abort, reporter: &Rc<Reporter>) -> Result<Rc<Files>> {
    let Source { headers, cache_key, expected, .. } = &request.source;
    let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let files = Files::new(place(&request.source)?, headers, request.cache, cache_key.clone(), reporter);
    let resolver = request.resolves.then(|| reporter.resolver());
    let files = Rc::new(files.expecting(expected.clone()).asking(resolver));
    let cancelled = Rc::clone(&files);
    abort.on_abort(move || cancelled.cancel());
    Ok(files)
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

/// Why a backend was taken, in one sentence, and what was found of its GPU.
type Found = (String, Option<device::Facts>);

/// One try on one backend: the GPU's, where a device was found. Gives the engine, and why this backend.
async fn attempt(
    request: &LoadRequest,
    found: Result<device::Device>,
    file: &Rc<Files>,
    abort: &Abort,
    reporter: &Rc<Reporter>,
) -> Result<(Engine<AnyBackend>, Found, Option<Crew>)> {
    let loading = header(request, file, reporter).await?;
    let parts = loading.weights().parts(PART_BYTES);
    let data_ends = loading.weights().data_ends();
    reporter.total(data_ends.iter().sum());
    let (mut tuned, mut crew, mut on_cpu) = (None, None, None);
    match &found {
        Ok(device) => tuned = device::tuned(device, &loading, (request.gpu_precision, request.tune)).await?,
        Err(error) => {
            let plan = loading.plan();
            let work = work(&loading, &plan);
            crew = Crew::hire(request, file, (&parts, loading.weights()), &work, reporter).await?;
            on_cpu = Some(cpu_backend(&loading, error, crew.as_ref())?);
        }
    }
    if abort.is_aborted() {
        return Err(abort.error());
    }
    file.begin(&loading.summary().name, data_ends, request.evict).await;
    let mut pipeline = Pipeline::begin(file, parts, reporter);
    let mut made = match found {
        Ok(device) => {
            let made = device::backend(device, &loading, (request.gpu_precision, tuned), reporter).await;
            pipeline.waited();
            made
        }
        Err(error) => on_cpu.ok_or(error),
    };
    let team = crew.as_ref().map(|crew| &*crew.team);
    let filled = match &mut made {
        Ok((backend, _)) => pipeline.run(Some(backend), loading.weights(), team, abort, reporter).await,
        Err(_) => Ok(()),
    };
    pipeline.end(made.is_err() || filled.is_err()).await;
    let (mut backend, reason) = made?;
    filled?;
    reporter.phase(Phase::Checking);
    event_loop_turn().await;
    backend.finish_upload().await?;
    if let Some(crew) = &mut crew {
        crew.ready().await?;
    }
    Ok((loading.into_engine(backend), reason, crew))
}

/// A device, or why there is none. Before any download: a model that cannot be used as asked for need not be fetched.
async fn find_device(choice: BackendChoice) -> Result<Result<device::Device>> {
    match choice {
        BackendChoice::Cpu => Ok(Err(Error::new(ErrorCode::GpuUnavailable, "the CPU was asked for"))),
        BackendChoice::Auto => Ok(device::find().await),
        BackendChoice::WebGpu => Ok(Ok(device::find().await?)),
    }
}

/// Everything about the model but its weights.
async fn header(request: &LoadRequest, file: &Files, reporter: &Reporter) -> Result<Loading> {
    reporter.phase(Phase::Header);
    let model = file.model().await?;
    let n_ctx = request.context_length.map(|n| n as usize);
    let (quantize, kv_cache) = (request.quantize.as_deref(), request.kv_cache.as_deref());
    let n_sequences = request.sequences.map(|n| n as usize);
    Loading::new(model, LoadOptions { n_sequences, ..LoadOptions::named(n_ctx, quantize, kv_cache)? })
}

/// What a token costs, and how many workers have the memory.
fn work<'a>(loading: &Loading, plan: &'a ModelPlan) -> Work<'a> {
    let least = loading.weights().total_bytes().div_ceil(MAX_CPU_BYTES / 4 * 3);
    Work::new(&plan.graph, least as usize)
}

/// A backend on the CPU, because of `why` there is no other; refused before the download when it cannot be.
fn cpu_backend(loading: &Loading, why: &Error, crew: Option<&Crew>) -> Result<(AnyBackend, Found)> {
    let (plan, mode) = (loading.plan(), CpuMode::Fast);
    // Running out of memory in the middle of the upload would be a trap, not an error.
    let needs = CpuBackend::footprint(&plan, crew.map(|crew| crew.split))?;
    if needs.total() > MAX_CPU_BYTES {
        let mib = |bytes: u64| bytes >> 20;
        let message = format!(
            "the model takes {} MiB of weights, {} MiB for a context of {} and {} MiB of workspace on the CPU path ({}), \
             which has {} MiB; take a smaller model or context, the options `quantize` or `kvCache`, or a browser with WebGPU",
            mib(needs.weight_bytes),
            mib(needs.kv_bytes),
            loading.n_ctx(),
            mib(needs.workspace_bytes),
            why.message(),
            mib(MAX_CPU_BYTES)
        );
        return Err(Error::new(ErrorCode::OutOfMemory, message));
    }
    let backend = match crew {
        None => AnyBackend::Cpu(CpuBackend::new(plan, mode)?),
        Some(Crew { team, split, .. }) => {
            AnyBackend::CpuShard(CpuShard::new(plan, mode, *split, Box::new(team.link()))?)
        }
    };
    Ok((backend, (format!("the CPU: {}", why.message()), None)))
}

/// Fetches what storage lacks of a model, and makes no engine of it; gives the bytes that came over the network. Begins anew
/// when the file on the server changed since its parts were stored.
/// # Errors
/// What the header and the origin say, or why storage cannot keep the model; `Aborted`.
pub async fn download(request: &LoadRequest, abort: &Rc<Abort>, reporter: &Rc<Reporter>) -> Result<u64> {
    let mut restarts = 0;
    loop {
        let file = files(request, abort, reporter)?;
        match store(request, &file, abort, reporter).await {
            Ok(()) => {
                reporter.phase(Phase::Ready);
                return Ok(file.network_bytes());
            }
            Err(_) if abort.is_aborted() => return Err(abort.error()),
            Err(error) if begins_anew(&file, &mut restarts, &error, reporter).await => {}
            Err(error) => return Err(error),
        }
        reporter.restart();
    }
}

/// One try of a download. Of a model that is all there, nothing but the header is read.
async fn store(
    request: &LoadRequest,
    file: &Rc<Files>,
    abort: &Abort,
    reporter: &Rc<Reporter>,
) -> Result<()> {
    let loading = header(request, file, reporter).await?;
    let parts = loading.weights().parts(PART_BYTES);
    let data_ends = loading.weights().data_ends();
    reporter.total(data_ends.iter().sum());
    file.begin(&loading.summary().name, data_ends, request.evict).await;
    file.must_be_cached()?;
    if file.missing(data_ends) > 0 {
        let mut pipeline = Pipeline::begin(file, parts, reporter);
        let stored = pipeline.run(None, loading.weights(), None, abort, reporter).await;
        pipeline.end(stored.is_err()).await;
        stored?;
        file.must_be_cached()?;
    }
    file.end().await;
    Ok(())
}

/// What a model would take here, known from its header (`FitFacts` of `protocol.ts`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FitFacts {
    backend: &'static str,
    backend_reason: String,
    model: ModelSummary,
    context_length: usize,
    needs: Footprint,
    /// Bytes of keys and values kept in formats that take less room than floats.
    smaller_caches: [(&'static str, u64); 2],
    /// What the CPU path has; a GPU does not say.
    limit_bytes: Option<u64>,
    /// Bytes that storage lacks of the model.
    missing_bytes: u64,
}

/// Reads a model's header and says what the model would take, and where.
/// # Errors
/// As [`load`], but for its weights.
pub async fn fit(request: &LoadRequest, abort: &Rc<Abort>, reporter: &Rc<Reporter>) -> Result<FitFacts> {
    let file = files(request, abort, reporter)?;
    let found = find_device(request.backend).await?;
    let loading = header(request, &file, reporter).await?;
    let mut plan = loading.plan();
    let gpu =
        |device: &device::Device, plan: &ModelPlan| device::footprint(device, plan, request.gpu_precision);
    let planned = found.and_then(|device| gpu(&device, &plan).map(|needs| (needs, device)));
    let (device, backend_reason, (needs, limit_bytes)) = match planned {
        Ok((needs, device)) => (Some(device), "an adapter was found".to_owned(), (needs, None)),
        Err(error) if request.backend == BackendChoice::WebGpu => return Err(error),
        Err(error) => (None, error.message().to_owned(), cpu_needs(request, &loading, &plan)?),
    };
    let mut smaller_caches = [("q8_0", 0), ("q4_0", 0)];
    for (name, bytes) in &mut smaller_caches {
        plan.kv_cache = Some(kv_format(name)?);
        let needs = match &device {
            Some(device) => gpu(device, &plan)?,
            None => cpu_needs(request, &loading, &plan)?.0,
        };
        *bytes = needs.kv_bytes;
    }
    Ok(FitFacts {
        backend: if device.is_some() { "webgpu" } else { "cpu" },
        backend_reason,
        model: loading.summary().clone(),
        context_length: loading.n_ctx(),
        needs,
        smaller_caches,
        limit_bytes,
        missing_bytes: file.missing(loading.weights().data_ends()),
    })
}

/// What a model takes of as many workers as it would get at least, and what these have together.
fn cpu_needs(request: &LoadRequest, loading: &Loading, plan: &ModelPlan) -> Result<(Footprint, Option<u64>)> {
    let work = work(loading, plan);
    let count = crew::count(request.threads, &work);
    let mut needs = Footprint::default();
    for index in 0..count {
        let split = (count > 1).then(|| Split { index, count, least: work.least_elements() });
        let own = CpuBackend::footprint(plan, split)?;
        needs.weight_bytes += own.weight_bytes;
        needs.kv_bytes += own.kv_bytes;
        needs.workspace_bytes += own.workspace_bytes;
    }
    Ok((needs, Some(MAX_CPU_BYTES * count as u64)))
}

fn info(
    engine: &Engine<AnyBackend>,
    (backend_reason, gpu): Found,
    crew: Option<&Crew>,
    file: &Files,
    reporter: &Reporter,
    started: Instant,
) -> Info {
    let backend = engine.session().backend();
    let network_bytes = file.network_bytes();
    let others = crew.map_or([0; 2], |crew| crew.held);
    Info {
        backend: match backend {
            AnyBackend::Cpu(_) | AnyBackend::CpuShard(_) => "cpu",
            #[cfg(feature = "gpu")]
            AnyBackend::Gpu(_) => "webgpu",
        },
        backend_reason,
        threads: crew.map_or(1, |crew| crew.split.count),
        gpu,
        exchange: crew.map(|crew| crew.team.exchange()),
        model: engine.summary().clone(),
        context_length: engine.session().n_ctx(),
        memory: Memory {
            backend_bytes: backend.memory_bytes() + others[0],
            wasm_bytes: wasm_memory_bytes() + others[1],
        },
        load: LoadFacts {
            from_cache: network_bytes == 0 && file.cache_bytes() > 0,
            cached: file.is_cached(),
            store: file.all().iter().find_map(|file| file.place()),
            seconds: started.elapsed().as_secs_f64(),
            ready_ms: reporter.phase_ms(),
            network_bytes,
        },
        warnings: reporter.warnings(),
        version: env!("CARGO_PKG_VERSION"),
    }
}
