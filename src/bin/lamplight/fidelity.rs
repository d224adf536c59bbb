//! `lamplight fidelity`: how far each way of computing is from float32 maths, and each weight format from the file.
//!
//! Over the tokens of a text: the mean Kullback-Leibler divergence of the next-token distributions, and the share of
//! tokens with the same best guess.

use std::path::{Path, PathBuf};

use lamplight::backend::cpu::CpuMode;
#[cfg(feature = "gpu")]
use lamplight::backend::gpu::Precision;
use lamplight::engine::native::{self, BackendOptions};
use lamplight::engine::quantize::quantize;
use lamplight::engine::{LoadOptions, Loading, NoPause};
use lamplight::error::{Error, ErrorCode, Result};
use lamplight::generate::argmax;
use lamplight::quant;
use lamplight::tensor::DType;
use lamplight::text::EncodeOptions;
use lamplight::weights::Recipe;

use super::common::print;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model; the finer its own format, the more the last columns say
    model: PathBuf,
    /// Weight formats to turn it into, separated by commas; those that it can be turned into if not given
    #[arg(long, value_delimiter = ',', value_name = "FORMAT")]
    types: Vec<String>,
    /// Tokens of the text that are used
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: usize,
    /// A text file instead of the one built in
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Leave out the GPU
    #[arg(long)]
    no_gpu: bool,
}

/// What a way of computing must reach to be called faithful.
struct Gate {
    mean_kl: f64,
    top1: f64,
}

/// For float32 throughout.
const F32_GATE: Gate = Gate { mean_kl: 1e-4, top1: 0.995 };
/// For half floats, or activations rounded to 16 bits.
const F16_GATE: Gate = Gate { mean_kl: 5e-3, top1: 0.0 };

/// A way of computing that is held to a gate.
struct Way {
    name: &'static str,
    backend: BackendOptions,
    gate: Gate,
}

fn ways(no_gpu: bool) -> Vec<Way> {
    let cpu = BackendOptions::Cpu(CpuMode::Fast);
    #[cfg_attr(not(feature = "gpu"), allow(unused_mut, reason = "there is nothing to add"))]
    let mut ways = vec![Way { name: "cpu", backend: cpu, gate: F16_GATE }];
    #[cfg(feature = "gpu")]
    if !no_gpu {
        let gpu = |precision| BackendOptions::Gpu(Some(precision));
        ways.push(Way { name: "gpu f32", backend: gpu(Precision::F32), gate: F32_GATE });
        ways.push(Way { name: "gpu f16", backend: gpu(Precision::F16), gate: F16_GATE });
    }
    ways
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let ids = token_ids(args)?;
    let exact = BackendOptions::Cpu(CpuMode::Exact);
    let types = formats(&args.types)?;
    let (source, n_vocab) = logits(&args.model, exact, &ids)?;
    print(&format!(
        "{} tokens, against float32 maths on the same weights; last columns: float32 maths against the file's own weights\n\
         {:<10}{:<10}{:>12}{:>10}{:>8}{:>14}{:>10}\n",
        ids.len(),
        "weights",
        "way",
        "mean KL",
        "top-1",
        "gate",
        "KL of file",
        "top-1"
    ))?;
    let mut n_missed = 0;
    for dtype in types {
        let file = Requantized::new(&args.model, dtype)?;
        let (reference, _) = logits(&file.0, exact, &ids)?;
        let lost = compare(&source, &reference, n_vocab);
        for way in ways(args.no_gpu) {
            let (found, _) = logits(&file.0, way.backend, &ids)?;
            let Distance { mean_kl, top1 } = compare(&reference, &found, n_vocab);
            let kept = mean_kl <= way.gate.mean_kl && top1 >= way.gate.top1;
            n_missed += usize::from(!kept);
            print(&format!(
                "{:<10}{:<10}{mean_kl:>12.2e}{:>9.2}%{:>8}{:>14.2e}{:>9.2}%\n",
                quant::format(dtype).name,
                way.name,
                100.0 * top1,
                if kept { "kept" } else { "MISSED" },
                lost.mean_kl,
                100.0 * lost.top1,
            ))?;
        }
    }
    match n_missed {
        0 => Ok(()),
        n => Err(Error::new(ErrorCode::GpuCheckFailed, format!("{n} of the gates were missed, see above"))),
    }
}

/// The model with its weights in another format, in a file of its own that goes when this does.
struct Requantized(PathBuf);

impl Requantized {
    fn new(model: &Path, dtype: DType) -> Result<Requantized> {
        let name = quant::format(dtype).name;
        let file =
            Requantized(std::env::temp_dir().join(format!("lamplight-{}-{name}.gguf", std::process::id())));
        let mut recipe = Recipe::named(name)?;
        (recipe.pure, recipe.requantize) = (true, true);
        pollster::block_on(quantize(model, &file.0, recipe))?;
        Ok(file)
    }
}

impl Drop for Requantized {
    fn drop(&mut self) {
        // Nothing is lost when a temporary file stays.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The formats asked for, or all that weights can be turned into.
fn formats(names: &[String]) -> Result<Vec<DType>> {
    let quantizable = quant::FORMATS.iter().filter(|format| format.quantize.is_some());
    if names.is_empty() {
        return Ok(quantizable.map(|format| format.dtype).collect());
    }
    let known: Vec<_> = quantizable.map(|format| format.name).collect();
    let find = |name: &String| {
        let format = quant::format_by_name(name).filter(|format| format.quantize.is_some());
        format.map(|format| format.dtype).ok_or_else(|| {
            let message =
                format!("{name:?} is no format to turn weights into; there are {}", known.join(", "));
            Error::new(ErrorCode::InvalidRequest, message).at("--types")
        })
    };
    names.iter().map(find).collect()
}

fn token_ids(args: &Args) -> Result<Vec<u32>> {
    let text = match &args.text {
        None => include_str!("fidelity.txt").to_owned(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorCode::Io, "the text cannot be read")
                .at(path.display().to_string())
                .caused_by(error)
        })?,
    };
    let (_, model) = pollster::block_on(native::open(&args.model))?;
    let loading = Loading::new(model, LoadOptions::default())?;
    let mut ids =
        loading.tokenizer().encode(&text, EncodeOptions { add_special: true, parse_special: false });
    ids.truncate(args.tokens);
    Ok(ids)
}

/// Logits after every token, `[n_tokens, n_vocab]`, and `n_vocab`.
fn logits(model: &Path, backend: BackendOptions, ids: &[u32]) -> Result<(Vec<f32>, usize)> {
    let options = LoadOptions { n_ctx: Some(ids.len()), ..LoadOptions::default() };
    let mut engine = pollster::block_on(native::load(model, backend, options))?;
    let logits = pollster::block_on(engine.forward(ids, true, &NoPause))?;
    Ok((logits, engine.session().width()))
}

/// How two runs over the same tokens differ.
struct Distance {
    /// Mean divergence of the distributions, in nats.
    mean_kl: f64,
    /// Share of tokens with the same best guess.
    top1: f64,
}

fn compare(reference: &[f32], found: &[f32], n_vocab: usize) -> Distance {
    let rows = reference.chunks_exact(n_vocab).zip(found.chunks_exact(n_vocab));
    let n_rows = rows.len() as f64;
    let (mut kl, mut equal) = (0.0, 0.0);
    for (p, q) in rows {
        let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
        for (p, q) in p.iter().zip(q) {
            let (log_p, log_q) = (f64::from(*p) - p_norm, f64::from(*q) - q_norm);
            kl += log_p.exp() * (log_p - log_q);
        }
        equal += f64::from(u8::from(argmax(p) == argmax(q)));
    }
    Distance { mean_kl: kl / n_rows, top1: equal / n_rows }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + row.iter().map(|v| f64::from(*v - max).exp()).sum::<f64>().ln()
}
