//! The WebGPU backend: wgpu on a browser's WebGPU or natively on Vulkan, one code for both.
//!
//! Principal types: [`GpuDevice`] (asked for once) and [`GpuBackend`] (one model on a device). Everything is planned
//! when the model is loaded: buffers, bind groups, pipelines and the list of launches; a step records that list and
//! makes no object of its own, but for one that the KV cache grows for. Knows ops and weight formats; must not know families, files or tokens' meaning.

mod choose;
mod debug;
mod device;
mod engine;
mod footprint;
pub mod kernels;
mod kv_cache;
mod memory;
mod nudge;
mod oneshot;
mod pipelines;
mod plan;
#[cfg(not(target_arch = "wasm32"))]
mod profile;
mod repack;
mod resources;
pub mod shaders;
mod states;
mod tune;
mod upload;

pub use device::{AdapterInfo, GpuDevice, GpuOptions};
pub use engine::{GpuBackend, Precision};
pub use nudge::Turn;
pub use pipelines::Ahead;
#[cfg(not(target_arch = "wasm32"))]
pub use pipelines::Alter;
pub use plan::Tuning;
