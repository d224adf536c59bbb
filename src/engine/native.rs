//! Loading from a native file: the command-line program and the tests.
//!
//! Principal function: [`load`].

use std::path::{Path, PathBuf};

use super::{
    AdapterFile, AdapterId, Engine, LoadOptions, Loading, ModelFiles, ModelFolder, fill, open_files,
};
use crate::backend::cpu::{CpuBackend, CpuMode, CpuPool, Sharding};
#[cfg(feature = "gpu")]
use crate::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision, Tuning};
use crate::backend::{AnyBackend, Backend, ModelPlan};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::gguf::shard_names;
use crate::weights::{Checkpoint, FileSource};

/// Which backend to load into, and how exactly it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendOptions {
    /// The CPU backend.
    Cpu(CpuMode),
    /// The CPU backend on several threads.
    CpuPool(CpuMode, Sharding),
    /// The GPU backend on the first adapter found; half precision where the device has it unless one is given.
    #[cfg(feature = "gpu")]
    Gpu(Option<Precision>),
    /// The same in this precision, tuned by hand.
    #[cfg(feature = "gpu")]
    TunedGpu(Precision, Tuning),
}

/// A folder on disk.
#[derive(Clone, Debug)]
pub struct NativeFolder(PathBuf);

impl ModelFolder for NativeFolder {
    type File = FileSource;

    async fn list(&self) -> Result<Option<Vec<String>>> {
        let entries = std::fs::read_dir(&self.0).map_err(|error| unreadable(&self.0, error))?;
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(Some(names))
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, error)),
        }
    }

    async fn open(&self, name: &str) -> Result<FileSource> {
        FileSource::open(self.0.join(name))
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorCode::Io, format!("cannot read {}: {error}", path.display())).caused_by(error)
}

/// Opens the model at `path` and reads everything but its weights: a GGUF file (any one, of a model in several files), or a
/// folder with `config.json` (or a safetensors file in it).
/// # Errors
/// `Io`, and every error of a header or a configuration.
pub async fn open(path: &Path) -> Result<(Vec<FileSource>, Checkpoint)> {
    let (folder, which) = locate(path)?;
    open_files(&folder, which).await
}

/// The folder that the model at `path` is in, and which of its files are the model.
/// # Errors
/// `Io` for a name that is none.
pub fn locate(path: &Path) -> Result<(NativeFolder, ModelFiles)> {
    if path.is_dir() {
        return Ok((NativeFolder(path.to_owned()), ModelFiles::Folder));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = NativeFolder(parent.to_owned());
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return Ok((folder, ModelFiles::Folder));
    }
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        let message = format!("{} is not the name of a file in UTF-8; rename it", path.display());
        return Err(Error::new(ErrorCode::Io, message));
    };
    Ok((folder, ModelFiles::Gguf(name.to_owned())))
}

/// The files (or the folder) that [`open`] reads for `path`.
pub(super) fn files_of(path: &Path) -> Vec<PathBuf> {
    let names = path.file_name().and_then(|name| shard_names(name.to_str()?));
    names.map_or(vec![path.to_owned()], |names| names.iter().map(|name| path.with_file_name(name)).collect())
}

/// Loads the model at `path`.
/// # Errors
/// `Io`, every error of a header, and what the backend says.
pub async fn load(path: &Path, backend: BackendOptions, options: LoadOptions) -> Result<Engine<AnyBackend>> {
    let (sources, model) = open(path).await?;
    let loading = Loading::new(model, options)?;
    let mut backend = make_backend(loading.plan(), backend).await?;
    fill(&mut backend, &loading, &sources).await?;
    Ok(loading.into_engine(backend))
}

/// A backend for `plan`, to be filled with weights.
/// # Errors
/// What the backend says.
pub async fn make_backend(plan: ModelPlan, backend: BackendOptions) -> Result<AnyBackend> {
    Ok(match backend {
        BackendOptions::Cpu(mode) => AnyBackend::Cpu(CpuBackend::new(plan, mode)?),
        BackendOptions::CpuPool(mode, sharding) => AnyBackend::CpuPool(CpuPool::new(plan, mode, sharding)?),
        #[cfg(feature = "gpu")]
        BackendOptions::Gpu(precision) => {
            let device = GpuDevice::request(GpuOptions::default()).await?;
            let precision = precision.unwrap_or(match device.info().shader_f16 {
                true => Precision::F16,
                false => Precision::F32,
            });
            AnyBackend::Gpu(GpuBackend::new(plan, device, precision).await?)
        }
        #[cfg(feature = "gpu")]
        BackendOptions::TunedGpu(precision, tuning) => {
            let device = GpuDevice::request(GpuOptions::default()).await?;
            AnyBackend::Gpu(GpuBackend::with_tuning(plan, device, precision, tuning).await?)
        }
    })
}

/// Loads the LoRA adapter at `path` into `engine`: a GGUF file, or a folder of the PEFT library (or the safetensors file
/// in it).
/// # Errors
/// `Io`, and as [`Engine::load_adapter`].
pub async fn load_adapter<B: Backend>(engine: &mut Engine<B>, path: &Path, scale: f32) -> Result<AdapterId> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| unreadable(path, error));
    let tensors = match path.is_dir() {
        true => path.join("adapter_model.safetensors"),
        false => path.to_owned(),
    };
    if tensors.extension().is_none_or(|extension| extension != "safetensors") {
        return engine.load_adapter(AdapterFile::Gguf(&read(path)?), scale).await;
    }
    let config = read(&tensors.with_file_name("adapter_config.json"))?;
    let tensors = read(&tensors)?;
    engine.load_adapter(AdapterFile::Peft { config: &config, tensors: &tensors }, scale).await
}
