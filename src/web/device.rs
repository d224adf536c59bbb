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
use crate::backend::gpu::{GpuBackend, Precision};

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
        match Device::request(Default::default()).await {
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

/// A backend on `device` that has passed its self-check for the model's formats, and in one sentence what it is.
/// # Errors
/// `GpuCheckFailed`, `GpuLost`, `OutOfMemory`.
#[cfg(feature = "gpu")]
pub(super) async fn backend(
    device: Device,
    loading: &Loading,
    choice: PrecisionChoice,
    reporter: &Reporter,
) -> Result<(AnyBackend, String)> {
    let mut formats = loading.weights().dtypes();
    formats.sort();
    formats.dedup();
    device.self_check(&formats).await?;
    let info = device.info().clone();
    let precision = precision(&device, choice);
    if choice == PrecisionChoice::F16 && precision == Precision::F32 {
        let message = "the GPU has no half floats (shader-f16): full precision is used";
        reporter.warn(ErrorCode::GpuUnavailable, message.to_owned());
    }
    let backend = GpuBackend::new(loading.plan(), device, precision).await?;
    let names = [info.vendor.as_str(), info.architecture.as_str(), info.name.as_str()];
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let name = if names.is_empty() { "unnamed".to_owned() } else { names.join(" ") };
    let floats = if precision == Precision::F16 { "f16" } else { "f32" };
    let reason = format!("WebGPU: an adapter was found ({name}) and passed its self-check; {floats} kernels");
    Ok((AnyBackend::Gpu(backend), reason))
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
    _choice: PrecisionChoice,
    _reporter: &Reporter,
) -> Result<(AnyBackend, String)> {
    match device {}
}
