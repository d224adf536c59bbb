//! Which GPU, if any, and why.
//!
//! Principal functions: [`find`] and [`backend`]. Must not know files or messages.

use super::load::PrecisionChoice;
use super::report::Reporter;
use crate::backend::AnyBackend;
use crate::engine::Loading;
use crate::error::{Error, ErrorCode, Result};

#[cfg(feature = "gpu")]
pub(super) use crate::backend::gpu::GpuDevice as Device;

/// Stands in where the GPU backend is not built in: there is none of it.
#[cfg(not(feature = "gpu"))]
pub(super) enum Device {}

/// Waits before each try, in milliseconds: right after start some browsers say "no adapter" and mean "not yet".
#[cfg(feature = "gpu")]
const TRIES_MS: [f64; 3] = [0.0, 250.0, 1000.0];

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
    let get = |object: &wasm_bindgen::JsValue, name: &str| js_sys::Reflect::get(object, &name.into());
    let gpu = get(&js_sys::global(), "navigator").and_then(|navigator| get(&navigator, "gpu"));
    gpu.is_ok_and(|gpu| gpu.is_object())
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
    use crate::backend::gpu::{GpuBackend, Precision};

    let mut formats = loading.weights().dtypes();
    formats.sort();
    formats.dedup();
    device.self_check(&formats).await?;
    let info = device.info().clone();
    let precision = match (choice, info.shader_f16) {
        (PrecisionChoice::F32, _) | (PrecisionChoice::Auto, false) => Precision::F32,
        (_, true) => Precision::F16,
        (PrecisionChoice::F16, false) => {
            let message = "the GPU has no half floats (shader-f16): full precision is used";
            reporter.warn(ErrorCode::GpuUnavailable, message.to_owned());
            Precision::F32
        }
    };
    let backend = GpuBackend::new(loading.plan(), device, precision).await?;
    let names = [info.vendor.as_str(), info.architecture.as_str(), info.name.as_str()];
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let name = if names.is_empty() { "unnamed".to_owned() } else { names.join(" ") };
    let floats = if precision == Precision::F16 { "f16" } else { "f32" };
    let reason = format!("WebGPU: an adapter was found ({name}) and passed its self-check; {floats} kernels");
    Ok((AnyBackend::Gpu(backend), reason))
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
