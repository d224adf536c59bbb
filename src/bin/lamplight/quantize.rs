//! `lamplight quantize`: a model file with its weights in another format.

use std::path::PathBuf;

use lamplight::engine::quantize;
use lamplight::error::{Error, ErrorCode, Result};
use lamplight::formats::Imatrix;
use lamplight::weights::Recipe;

use crate::common;

/// Arguments of `quantize`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GGUF file
    model: PathBuf,
    /// The GGUF file to write
    out: PathBuf,
    /// Format of the weights, such as q8_0, q4_0 or q4_k; vectors become f32
    #[arg(long = "type", value_name = "TYPE")]
    format: String,
    /// An importance matrix: what llama.cpp's `llama-imatrix` writes, in either form
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The output matrix and the embeddings in this format too, rather than in at least q6_k
    #[arg(long)]
    pure: bool,
    /// Quantise again what is quantised already, with the loss of both; else only floats change
    #[arg(long)]
    requantize: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut recipe = Recipe::named(&args.format)?;
    recipe.pure = args.pure;
    recipe.requantize = args.requantize;
    if let Some(path) = &args.imatrix {
        let bytes = std::fs::read(path).map_err(|error| {
            Error::new(ErrorCode::Io, format!("{} could not be read", path.display())).caused_by(error)
        })?;
        recipe.importance = Some(Imatrix::parse(&bytes)?);
    }
    let done = pollster::block_on(quantize::quantize(&args.model, &args.out, recipe))?;
    let formats: Vec<_> = done.formats.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let mut text = format!(
        "{}: {:.1} MB of weights to {:.1} MB ({})\n",
        args.out.display(),
        done.bytes_before as f64 / 1e6,
        done.file_bytes as f64 / 1e6,
        formats.join(", ")
    );
    if !done.without_importance.is_empty() {
        text += &format!("without importance: {}\n", done.without_importance.join(", "));
    }
    common::print(&text)
}
