//! Which GPU, if any, and why.
//!
//! Principal functions: [`find`] and [`backend`]. Must not know files or messages.

use super::load::PrecisionChoice;
use super::report::Reporter;
use crate::backend::{AnyBackend, Footprint, ModelPlan};
use crate::engine::Loading;
use crate::error::{Error, ErrorCode, Result};

#[cfg(feature = "gpu")]
pub(super) use crate::backend::gpu::GpuDevice as Device;

#[cfg(feature = "gpu")]
use super::pool::{keep, kept, pipelines_ahead};
#[cfg(feature = "gpu")]
use crate::backend::gpu::{GpuBackend, Precision, Tuning};
#[cfg(feature = "gpu")]
use crate::engine::check_gpu;
#[cfg(feature = "gpu")]
use crate::quant::format_by_name;
#[cfg(feature = "gpu")]
use crate::tensor::DType;

#[cfg(feature = "gpu")]
pub(super) use crate::engine::GpuFacts as Facts;

/// Nothing is known of a GPU where there is no backend for it.
#[cfg(not(feature = "gpu"))]
pub(super) type Facts = ();

/// Stands in where the GPU backend is not built in: there is none of it.
#[cfg(not(feature = "gpu"))]
pub(super) enum Device {}

/// Waits before each try, in milliseconds: right after start some browsers say "no adapter" and mean "not yet".
#[cfg(feature = "gpu")]
const TRIES_MS: [f64; 3] = [0.0, 250.0, 1000.0];

/// Between two nudges of a browser that does not look for finished work by itself, in milliseconds.
#[cfg(feature = "gpu")]
const NUDGE_MS: f64 = 1.0;

/// Asks for a device, anew each time: adapters give a device only once, and lost ones none.
/// # Errors
/// `GpuUnavailable` with the reason.
#[cfg(feature = "gpu")]
pub(super) async fn find() -> Result<Device> {
    if !has_webgpu() {
        let message = "this browser has no WebGPU (or the page is not secure: https or localhost)";
        return Err(Error::new(ErrorCode::GpuUnavailable, message));
    }
    let mut last = None;
    for wait in TRIES_MS {
        super::task::sleep(wait).await;
        match Device::request(Default::default()).await.map(|device| device.compiling(pipelines_ahead)) {
            Ok(device) if is_firefox() => return Ok(device.nudged(|| Box::pin(super::task::sleep(NUDGE_MS)))),
            Ok(device) => return Ok(device),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("invariant: there is at least one try"))
}

/// Without the GPU backend there is no device.
/// # Errors
/// Always `GpuUnavailable`.
#[cfg(not(feature = "gpu"))]
pub(super) async fn find() -> Result<Device> {
    Err(Error::new(ErrorCode::GpuUnavailable, "this build has no GPU backend"))
}

/// Whether the browser has WebGPU at all, which says nothing of an adapter.
#[cfg(feature = "gpu")]
fn has_webgpu() -> bool {
    super::task::navigator("gpu").is_object()
}

/// Whether this is the browser that looks for finished GPU work every 100 ms only, unless something is submitted.
#[cfg(feature = "gpu")]
fn is_firefox() -> bool {
    super::task::navigator("userAgent").as_string().is_some_and(|agent| agent.contains("Firefox/"))
}

/// A backend on `device` that runs what has passed the check, and in one sentence what it is, and what was found.
/// # Errors
/// `GpuCheckFailed`, `GpuLost`, `OutOfMemory`.
#[cfg(feature = "gpu")]
pub(super) async fn backend(
    device: Device,
    loading: &Loading,
    (choice, tuned): (PrecisionChoice, Option<String>),
    reporter: &Reporter,
) -> Result<(AnyBackend, (String, Option<Facts>))> {
    let precision = precision(&device, choice);
    if choice == PrecisionChoice::F16 && precision == Precision::F32 {
        let message = "the GPU has no half floats (shader-f16): full precision is used";
        reporter.warn(ErrorCode::GpuUnavailable, message.to_owned());
    }
    let name = name(&device);
    let tuning = tuned.as_deref().and_then(Tuning::found).unwrap_or_default();
    let (precision, tuning, facts) = check_gpu(&device, loading.miniature(), precision, tuning).await?;
    if let Some(what) = facts.replaced {
        let message =
            format!("this GPU computes wrongly, so that its driver may need an update; replaced: {what}");
        reporter.warn(ErrorCode::GpuCheckFailed, message);
    }
    let backend = GpuBackend::with_tuning(loading.plan(), device, precision, tuning).await?;
    let floats = if precision == Precision::F16 { "f16" } else { "f32" };
    let reason = format!("WebGPU: an adapter was found ({name}) and passed its self-check; {floats} kernels");
    Ok((AnyBackend::Gpu(backend), (reason, Some(Facts { tuned, ..facts }))))
}

/// What a device calls itself.
#[cfg(feature = "gpu")]
fn name(device: &Device) -> String {
    let info = device.info();
    let names = [info.vendor.as_str(), info.architecture.as_str(), info.name.as_str()];
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    if names.is_empty() { "unnamed".to_owned() } else { names.join(" ") }
}

/// What [`Device::tune`] finds of a device, in the format that most of the model is in; what it found on an earlier visit,
/// where that was kept. Nothing else should go on meanwhile.
#[cfg(feature = "gpu")]
pub(super) async fn tuned(
    device: &Device,
    loading: &Loading,
    (choice, tune): (PrecisionChoice, Option<bool>),
) -> Result<Option<String>> {
    // On software a load of the machine decides what is fastest, and few ways can be measured in time.
    if !tune.unwrap_or(!device.info().fallback) {
        return Ok(None);
    }
    let (precision, packed) = (precision(device, choice), choice != PrecisionChoice::F32);
    let formats = &loading.summary().formats;
    let most = formats.iter().max_by_key(|(_, bytes)| **bytes).and_then(|(name, _)| format_by_name(name));
    let dtype = most.map_or(DType::F32, |format| format.dtype);
    let key = format!(
        concat!(env!("CARGO_PKG_VERSION"), " {:?} {:?} {} {} {}"),
        dtype,
        precision,
        packed,
        name(device),
        device.info().subgroups
    );
    let found = kept(&key).await.as_string().filter(|found| Tuning::found(found).is_some());
    if found.is_some() {
        return Ok(found);
    }
    let found = device.tune(dtype, precision, packed).await?;
    keep(&key, &found);
    Ok(Some(found))
}

/// The precision that is wanted, as far as the device has it.
#[cfg(feature = "gpu")]
fn precision(device: &Device, choice: PrecisionChoice) -> Precision {
    match choice != PrecisionChoice::F32 && device.info().shader_f16 {
        true => Precision::F16,
        false => Precision::F32,
    }
}

/// What a model would take on `device`.
/// # Errors
/// `OutOfMemory` for what the device cannot bind at once.
#[cfg(feature = "gpu")]
pub(super) fn footprint(device: &Device, plan: &ModelPlan, choice: PrecisionChoice) -> Result<Footprint> {
    GpuBackend::footprint(plan, device, precision(device, choice))
}

/// There is no device to plan for.
/// # Errors
/// None.
#[cfg(not(feature = "gpu"))]
pub(super) fn footprint(device: &Device, _plan: &ModelPlan, _choice: PrecisionChoice) -> Result<Footprint> {
    match *device {}
}

/// There is no device to make one of.
/// # Errors
/// None.
#[cfg(not(feature = "gpu"))]
pub(super) async fn backend(
    device: Device,
    _loading: &Loading,
    _choice: (PrecisionChoice, Option<String>),
    _reporter: &Reporter,
) -> Result<(AnyBackend, (String, Option<Facts>))> {
    match device {}
}

/// There is no device to measure.
/// # Errors
/// None.
#[cfg(not(feature = "gpu"))]
pub(super) async fn tuned(
    device: &Device,
    _loading: &Loading,
    _choice: (PrecisionChoice, Option<bool>),
) -> Result<Option<String>> {
    match *device {}
}
