//! A WebGPU device: asked for, described, and watched for errors.
//!
//! Principal type: [`GpuDevice`]. After a device is lost WebGPU reports nothing any more and calls succeed silently, so
//! everything that waits on the GPU asks [`GpuDevice::check`] afterwards. Must not know graphs or kernels.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::nudge::{Turn, nudging};
use super::oneshot::{Receiver, oneshot};
use super::pipelines::{Ahead, Cache};
use crate::error::{Error, ErrorCode, Result};

/// What to ask an adapter for.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuOptions {
    /// Ask for no more than the limits every WebGPU device has, and for no optional feature: what the smallest device
    /// would give, for tests.
    pub minimal: bool,
    /// Prefer the adapter that saves power.
    pub low_power: bool,
}

/// What is known of the adapter and of what its device was granted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterInfo {
    /// Name or description; browsers usually leave it empty.
    pub name: String,
    /// Vendor, such as `nvidia` (browsers) or `0x10de` (native).
    pub vendor: String,
    /// Architecture, such as `ampere` (browsers only).
    pub architecture: String,
    /// Whether it is a software adapter.
    pub fallback: bool,
    /// Whether kernels may use half floats.
    pub shader_f16: bool,
    /// Whether kernels may use subgroups.
    pub subgroups: bool,
    /// Lanes of a subgroup, where there are any and all have as many.
    #[serde(skip)]
    pub subgroup_lanes: Option<u32>,
    /// Largest storage binding in bytes; larger weights are cut by rows.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub max_workgroup_bytes: u32,
}

impl AdapterInfo {
    /// The largest buffer that can be bound whole.
    pub(super) fn most_bound_bytes(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }
}

/// Errors that arrived outside of any call.
#[derive(Default)]
struct Incidents {
    lost: Option<String>,
    uncaptured: Option<(ErrorCode, String)>,
}

/// What went wrong with internals, validity and memory, once the GPU has told.
pub(super) type Errors = [Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>; 3];

/// A device, its queue and the kernels compiled for it. Clones share all of them.
#[derive(Clone)]
pub struct GpuDevice {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    info: AdapterInfo,
    incidents: Arc<Mutex<Incidents>>,
    pub(super) cache: Arc<Mutex<Cache>>,
    /// Bytes of the buffers that models hold.
    held: Arc<AtomicU64>,
    /// How to wait where finished work must be asked for.
    turn: Option<Turn>,
    /// How to have many kernels compiled, where that is not what asking for them does.
    pub(super) ahead: Option<Ahead>,
}

impl GpuDevice {
    /// Asks for an adapter and its device. Every call asks for a new adapter, since one gives a device only once.
    /// # Errors
    /// `GpuUnavailable` when there is no adapter, or it refuses a device.
    pub async fn request(options: GpuOptions) -> Result<GpuDevice> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::BROWSER_WEBGPU;
        let instance = wgpu::Instance::new(descriptor);
        let wanted = wgpu::RequestAdapterOptions {
            power_preference: match options.low_power {
                true => wgpu::PowerPreference::LowPower,
                false => wgpu::PowerPreference::HighPerformance,
            },
            ..Default::default()
        };
        let adapter = instance.request_adapter(&wanted).await.map_err(|error| {
            unavailable(
                "there is no WebGPU adapter; update the browser or its graphics driver, or use the CPU",
                error,
            )
        })?;
        let (required_limits, required_features) = requirements(&adapter, options);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("lamplight"),
            required_features,
            required_limits,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| unavailable("the WebGPU adapter refused a device", error))?;
        let info = describe(&adapter, &device);
        let incidents = Arc::new(Mutex::new(Incidents::default()));
        watch(&device, &incidents);
        let (cache, held) = Default::default();
        let device = GpuDevice { device, queue, info, incidents, cache, held, turn: None, ahead: None };
        // A device may be lost before it is handed out.
        device.check()?;
        Ok(device)
    }

    /// The same device; waiting for it now nudges it by an empty submit after each turn.
    pub fn nudged(self, turn: Turn) -> Self {
        Self { turn: Some(turn), ..self }
    }

    /// The same device; kernels are compiled by `ahead` before they are made.
    pub fn compiling(self, ahead: Ahead) -> Self {
        Self { ahead: Some(ahead), ..self }
    }

    /// What the adapter says of itself and grants.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// Bytes of all buffers that models on this device hold.
    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Enters a model's buffers into [`Self::held_bytes`].
    pub(super) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes them out again.
    pub(super) fn let_go(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that the driver says are in use, where it can be asked.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn driver_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Whether the device was lost; nothing can be done with it then.
    pub fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }

    /// Gives the device up, as if it had been lost: its memory is freed whoever still holds a clone.
    pub fn destroy(&self) {
        self.lock().lost.get_or_insert_with(|| "it was destroyed".to_owned());
        self.device.destroy();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Incidents> {
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when something went wrong that no call reported.
    /// # Errors
    /// `GpuLost`; or the first uncaptured error, as `OutOfMemory` or `Internal`, once.
    pub(super) fn check(&self) -> Result<()> {
        let mut incidents = self.lock();
        if let Some(reason) = &incidents.lost {
            let message = format!("the GPU device was lost: {reason}; load the model again, or use the CPU");
            return Err(Error::new(ErrorCode::GpuLost, message));
        }
        match incidents.uncaptured.take() {
            Some((code, message)) => Err(Error::new(code, message)),
            None => Ok(()),
        }
    }

    /// Runs `make` and waits for the errors it caused: `OutOfMemory` for memory, `invalid` for anything else, with
    /// `what` in the message.
    pub(super) async fn guarded<T>(
        &self,
        what: &str,
        invalid: ErrorCode,
        make: impl FnOnce() -> T,
    ) -> Result<T> {
        let (made, errors) = self.watched(make);
        self.settle(what, invalid, errors).await?;
        Ok(made)
    }

    /// Runs `make`; what it did wrong comes later, so that much can be under way together.
    pub(super) fn watched<T>(&self, make: impl FnOnce() -> T) -> (T, Errors) {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let made = make();
        // All three are popped before the first is awaited: scopes nest.
        (made, [Box::pin(internal.pop()), Box::pin(validation.pop()), Box::pin(memory.pop())])
    }

    /// Waits for the errors of something `watched`.
    pub(super) async fn settle(&self, what: &str, invalid: ErrorCode, errors: Errors) -> Result<()> {
        let [internal, validation, memory] = errors;
        let errors = [internal.await, validation.await, memory.await];
        self.check()?;
        match errors.into_iter().flatten().next() {
            None => Ok(()),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                let message = format!("out of GPU memory for {what}; use a smaller model or context");
                Err(Error::new(ErrorCode::OutOfMemory, message))
            }
            Some(error) => Err(Error::new(invalid, format!("{what}: {error}"))),
        }
    }

    /// Waits until all that was submitted is done.
    /// # Errors
    /// What went wrong meanwhile: `GpuLost`, `OutOfMemory`, `Internal`.
    pub async fn finished(&self) -> Result<()> {
        let (sender, receiver) = oneshot();
        self.queue.on_submitted_work_done(move || sender.send(()));
        self.drive(None);
        self.patient(receiver).await;
        self.check()
    }

    /// Has the first `n_bytes` of a buffer mapped, once what was submitted is done.
    pub(super) fn map(buffer: &wgpu::Buffer, n_bytes: u64) -> Receiver<bool> {
        let (sender, receiver) = oneshot();
        buffer.map_async(wgpu::MapMode::Read, ..n_bytes, move |result| sender.send(result.is_ok()));
        receiver
    }

    /// The first `n_bytes` of a buffer that [`Self::map`] maps, which is then free again; `until` is the submit that
    /// fills it, the last one where there is none.
    pub(super) async fn mapped<T: bytemuck::Pod>(
        &self,
        buffer: &wgpu::Buffer,
        n_bytes: u64,
        mapped: impl Future<Output = Option<bool>>,
        until: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<T>> {
        self.drive(until);
        let mapped = self.patient(mapped).await;
        self.check()?;
        if mapped != Some(true) {
            return Err(Error::new(ErrorCode::Internal, "reading back from the GPU failed"));
        }
        let view = buffer.get_mapped_range(..n_bytes).map_err(|error| {
            Error::new(ErrorCode::Internal, "the mapped GPU buffer cannot be read").caused_by(error)
        })?;
        let values = bytemuck::pod_collect_to_vec(&view);
        drop(view);
        buffer.unmap();
        Ok(values)
    }

    /// The first `n_bytes` of a mappable buffer.
    pub(super) async fn read(&self, buffer: &wgpu::Buffer, n_bytes: u64) -> Result<Vec<f32>> {
        self.mapped(buffer, n_bytes, Self::map(buffer, n_bytes), None).await
    }

    /// What the GPU will tell; see [`nudging`].
    async fn patient<T>(&self, awaited: impl Future<Output = T>) -> T {
        match self.turn {
            None => awaited.await,
            Some(turn) => {
                let nudge = || {
                    self.queue.submit([]);
                };
                nudging(awaited, turn, nudge).await
            }
        }
    }

    /// Natively somebody has to turn the crank for callbacks to come; in a browser the event loop does.
    fn drive(&self, submission_index: Option<wgpu::SubmissionIndex>) {
        if cfg!(not(target_arch = "wasm32"))
            && let Err(error) = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None })
        {
            log::warn!("waiting for the GPU: {error}");
        }
    }
}

fn unavailable(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorCode::GpuUnavailable, format!("{what} ({source})")).caused_by(source)
}

/// The default limits suffice for every kernel; only the sizes of buffers and bindings profit from more.
fn requirements(adapter: &wgpu::Adapter, options: GpuOptions) -> (wgpu::Limits, wgpu::Features) {
    let mut limits = wgpu::Limits::defaults();
    if options.minimal {
        return (limits, wgpu::Features::empty());
    }
    let granted = adapter.limits();
    limits.max_buffer_size = granted.max_buffer_size.max(limits.max_buffer_size);
    limits.max_storage_buffer_binding_size =
        granted.max_storage_buffer_binding_size.max(limits.max_storage_buffer_binding_size);
    let mut wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    // In browsers the worker's script asks for it (`gpu-features.ts`).
    if cfg!(not(target_arch = "wasm32")) {
        wanted |= wgpu::Features::TIMESTAMP_QUERY;
    }
    (limits, adapter.features() & wanted)
}

/// Without these handlers wgpu panics on the first error that no scope takes.
fn watch(device: &wgpu::Device, incidents: &Arc<Mutex<Incidents>>) {
    let lost = incidents.clone();
    device.set_device_lost_callback(move |reason, message| {
        let message = match message.is_empty() {
            true => format!("{reason:?}"),
            false => message,
        };
        lost.lock().unwrap_or_else(PoisonError::into_inner).lost.get_or_insert(message);
    });
    let uncaptured = incidents.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let (code, message) = match &error {
            wgpu::Error::OutOfMemory { .. } => (
                ErrorCode::OutOfMemory,
                "the GPU ran out of memory; use a smaller model or context".to_owned(),
            ),
            other => (ErrorCode::Internal, format!("the GPU refused a command: {other}")),
        };
        log::error!("{message}");
        let mut incidents = uncaptured.lock().unwrap_or_else(PoisonError::into_inner);
        incidents.uncaptured.get_or_insert((code, message));
    }));
}

fn describe(adapter: &wgpu::Adapter, device: &wgpu::Device) -> AdapterInfo {
    let info = adapter.get_info();
    let limits = device.limits();
    let (vendor, architecture) = names(device, &info);
    AdapterInfo {
        vendor,
        architecture,
        fallback: info.device_type == wgpu::DeviceType::Cpu,
        name: info.name,
        shader_f16: device.features().contains(wgpu::Features::SHADER_F16),
        subgroups: has_subgroups(device),
        subgroup_lanes: (has_subgroups(device) && info.subgroup_min_size == info.subgroup_max_size)
            .then_some(info.subgroup_min_size),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn has_subgroups(device: &wgpu::Device) -> bool {
    device.features().contains(wgpu::Features::SUBGROUP)
}

/// wgpu knows no such feature in browsers; the worker's script asks for it (`gpu-features.ts`).
#[cfg(target_arch = "wasm32")]
fn has_subgroups(device: &wgpu::Device) -> bool {
    device.as_webgpu().is_some_and(|device| device.features().has("subgroups"))
}

#[cfg(not(target_arch = "wasm32"))]
fn names(_device: &wgpu::Device, info: &wgpu::AdapterInfo) -> (String, String) {
    (format!("{:#06x}", info.vendor), String::new())
}

/// wgpu leaves these strings out on the web; the device's own `adapterInfo` has them.
#[cfg(target_arch = "wasm32")]
fn names(device: &wgpu::Device, _info: &wgpu::AdapterInfo) -> (String, String) {
    use js_sys::Reflect;
    let info =
        device.as_webgpu().and_then(|device| Reflect::get(device.as_ref(), &"adapterInfo".into()).ok());
    let field = |name: &str| {
        let value = info.as_ref().and_then(|info| Reflect::get(info, &name.into()).ok());
        value.and_then(|value| value.as_string()).unwrap_or_default()
    };
    (field("vendor"), field("architecture"))
}
