//! Loading from a native file: the command-line program and the tests.
//!
//! Principal function: [`load`].

use std::path::Path;

use super::{Engine, LoadOptions, Loading};
use crate::backend::cpu::{CpuBackend, CpuMode};
#[cfg(feature = "gpu")]
use crate::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision};
use crate::backend::{AnyBackend, Backend};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::gguf::GgufHeader;
use crate::weights::{self, ByteSource, FileSource, PART_BYTES};

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
pub async fn open(path: &Path) -> Result<(FileSource, GgufHeader)> {
    if path.is_dir() {
        let message = format!("{} is a folder: give the model's GGUF file", path.display());
        return Err(Error::new(ErrorCode::NotAModel, message));
    }
    let source = FileSource::open(path)?;
    let header = weights::read_header(&source).await?;
    Ok((source, header))
}

/// Loads the model at `path`.
/// # Errors
/// `Io`, every error of a header, and what the backend says.
pub async fn load(path: &Path, backend: BackendOptions, options: LoadOptions) -> Result<Engine<AnyBackend>> {
    let (source, header) = open(path).await?;
    let loading = Loading::new(header, options)?;
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
    fill(&mut backend, &loading, &source).await?;
    Ok(loading.into_engine(backend))
}

/// Streams the weights from `source` into `backend`, part by part; never the whole file in memory.
/// # Errors
/// What the source and the backend say.
pub async fn fill(backend: &mut impl Backend, loading: &Loading, source: &impl ByteSource) -> Result<()> {
    for part in loading.weights().parts(PART_BYTES) {
        let bytes = source.read(part.clone()).await?;
        for piece in loading.weights().pieces(part) {
            let bytes = &bytes[piece.range];
            loading.weights().check_scales(piece.weight, piece.offset, bytes)?;
            backend.upload(piece.weight, piece.offset, bytes)?;
        }
    }
    backend.finish_upload().await
}
