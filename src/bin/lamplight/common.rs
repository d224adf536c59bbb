//! What the commands share: arguments, loading, output.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use lamplight::backend::cpu::{CpuMode, Sharding};
#[cfg(feature = "gpu")]
use lamplight::backend::gpu::Precision;
use lamplight::backend::{AnyBackend, kv_format};
use lamplight::engine::native::{self, BackendOptions};
use lamplight::engine::{Engine, LoadOptions};
use lamplight::error::{Error, ErrorCode, Result};
use lamplight::tensor::DType;
use serde_json::Value;

/// Which model, and how it runs.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// A GGUF file, or a folder with config.json and safetensors files
    pub(crate) model: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    pub(crate) backend: BackendName,
    /// Compute with float32 activations throughout instead of the kernels that are made for speed
    #[arg(long)]
    pub(crate) exact: bool,
    /// Positions of the KV cache; what the model was trained for, at most 4096, if not given
    #[arg(long, value_name = "N")]
    pub(crate) ctx: Option<usize>,
    /// Texts that are kept, each in a KV cache of its own, from 1 to 16
    #[arg(long, value_name = "N")]
    pub(crate) sequences: Option<usize>,
    /// Turn float weights into this format as they arrive, such as q8_0, q4_0 or q4_k
    #[arg(long, visible_alias = "quant", value_name = "TYPE")]
    pub(crate) quantize: Option<String>,
    /// Keep keys and values in this format: f32, f16, q8_0 or q4_0; f16 where the device has it, if not given
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv_cache: Option<String>,
    /// Most tokens of one prefill step
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
    /// Threads of the CPU backend, each of which holds its share of the weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// A LoRA adapter, a GGUF file or a PEFT folder, and its factor (1 if not given); may be repeated
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = parse_lora)]
    pub(crate) lora: Vec<Lora>,
}

/// An adapter to load with the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lora {
    path: PathBuf,
    scale: f32,
}

/// `FILE[=SCALE]`; what follows the last `=` is part of the file's name unless it is a number.
fn parse_lora(text: &str) -> std::result::Result<Lora, std::convert::Infallible> {
    let split = text.rsplit_once('=').and_then(|(path, scale)| Some((path, scale.parse().ok()?)));
    let (path, scale) = split.unwrap_or((text, 1.0));
    Ok(Lora { path: path.into(), scale })
}

/// A backend by name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    Cpu,
    Gpu,
}

impl BackendName {
    /// As in the JSON output.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            BackendName::Cpu => "cpu",
            BackendName::Gpu => "gpu",
        }
    }
}

impl ModelArgs {
    /// Loads the model with room for at least `n_ctx` positions unless `--ctx` says otherwise.
    pub(crate) fn load(&self, n_ctx: Option<usize>) -> Result<Engine<AnyBackend>> {
        let (quantize, kv_cache) = (self.quantize.as_deref(), self.kv_cache.as_deref());
        let options = LoadOptions::named(self.ctx.or(n_ctx), quantize, kv_cache)?;
        let options = LoadOptions { n_batch: self.batch, n_sequences: self.sequences, ..options };
        let mut engine = pollster::block_on(native::load(&self.model, self.backend_options()?, options))?;
        for Lora { path, scale } in &self.lora {
            pollster::block_on(native::load_adapter(&mut engine, path, *scale))?;
        }
        Ok(engine)
    }

    /// The format of `--kv-cache`.
    pub(crate) fn kv_format(&self) -> Result<Option<DType>> {
        self.kv_cache.as_deref().map(kv_format).transpose()
    }

    pub(crate) fn backend_options(&self) -> Result<BackendOptions> {
        let mode = if self.exact { CpuMode::Exact } else { CpuMode::Fast };
        match self.backend {
            BackendName::Cpu if self.threads == 1 => Ok(BackendOptions::Cpu(mode)),
            BackendName::Cpu => Ok(BackendOptions::CpuPool(mode, Sharding::over(self.threads))),
            #[cfg(feature = "gpu")]
            BackendName::Gpu if self.threads > 1 => {
                let message = "is for the CPU backend; the GPU has its own";
                Err(Error::new(ErrorCode::InvalidRequest, message).at("threads"))
            }
            #[cfg(feature = "gpu")]
            BackendName::Gpu => Ok(BackendOptions::Gpu(self.exact.then_some(Precision::F32))),
            #[cfg(not(feature = "gpu"))]
            BackendName::Gpu => {
                Err(Error::new(ErrorCode::GpuUnavailable, "this program was built without the feature `gpu`"))
            }
        }
    }
}

/// `error[code] at field: message`, with what caused it.
pub(crate) fn describe(error: &Error) -> String {
    let mut text = format!("error[{}]", error.code().as_str());
    if let Some(field) = error.field() {
        text += &format!(" at {field}");
    }
    text += &format!(": {}", error.message());
    let source = std::error::Error::source(error).map(ToString::to_string);
    if let Some(source) = source.filter(|source| !text.contains(source)) {
        text += &format!(" ({source})");
    }
    text
}

/// Writes a result to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough (`lamplight ... | head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| {
            Error::new(ErrorCode::Io, "the result could not be written to stdout").caused_by(error)
        }),
    }
}

/// Writes one JSON value and a line end to stdout.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_may_have_a_factor() {
        let lora = |path: &str, scale| Ok(Lora { path: path.into(), scale });
        assert_eq!(parse_lora("a.gguf"), lora("a.gguf", 1.0));
        assert_eq!(parse_lora("a.gguf=0.5"), lora("a.gguf", 0.5));
        assert_eq!(parse_lora("a=b.gguf"), lora("a=b.gguf", 1.0));
        assert_eq!(parse_lora("a=b.gguf=-2"), lora("a=b.gguf", -2.0));
    }
}
