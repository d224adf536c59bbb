//! Loading from a native file: the command-line program and the tests.
//!
//! Principal function: [`load`].

use std::path::Path;

use super::{Engine, LoadOptions, Loading, fill};
use crate::backend::AnyBackend;
use crate::backend::cpu::{CpuBackend, CpuMode};
#[cfg(feature = "gpu")]
use crate::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::{self, Checkpoint, FileSource};

/// Which backend to load into, and how exactly it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendOptions {
    /// The CPU backend.
    Cpu(CpuMode),
    /// The GPU backend on the first adapter found; half precision where the device has it unless one is given.
    #[cfg(feature = "gpu")]
    Gpu(Option<Precision>),
}

/// Opens the model at `path` and reads its header.
/// # Errors
/// `Io`, and every error of a header.
pub async fn open(path: &Path) -> Result<(Vec<FileSource>, Checkpoint)> {
    if path.is_dir() {
        let message = format!("{} is a folder: give the model's GGUF file", path.display());
        return Err(Error::new(ErrorCode::NotAModel, message));
    }
    let source = FileSource::open(path)?;
    let header = weights::read_header(&source).await?;
    Ok((vec![source], header.into()))
}

/// Loads the model at `path`.
/// # Errors
/// `Io`, every error of a header, and what the backend says.
pub async fn load(path: &Path, backend: BackendOptions, options: LoadOptions) -> Result<Engine<AnyBackend>> {
    let (sources, model) = open(path).await?;
    let loading = Loading::new(model, options)?;
    let plan = loading.plan();
    let mut backend = match backend {
        BackendOptions::Cpu(mode) => AnyBackend::Cpu(CpuBackend::new(plan, mode)?),
        #[cfg(feature = "gpu")]
        BackendOptions::Gpu(precision) => {
            let device = GpuDevice::request(GpuOptions::default()).await?;
            let precision = precision.unwrap_or(match device.info().shader_f16 {
                true => Precision::F16,
                false => Precision::F32,
            });
            AnyBackend::Gpu(GpuBackend::new(plan, device, precision).await?)
        }
    };
    fill(&mut backend, &loading, &sources).await?;
    Ok(loading.into_engine(backend))
}
