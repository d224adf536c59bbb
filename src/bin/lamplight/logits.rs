//! `lamplight logits`: what the model computes for given tokens, for comparison with other programs.

use std::path::PathBuf;

use lamplight::engine::NoPause;
use lamplight::error::{Error, ErrorCode, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::common::ModelArgs;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// The file to write: tensor `logits`, f32 [n_tokens, n_vocab]
    #[arg(long)]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut engine = args.model.load(Some(args.ids.len()))?;
    let logits = pollster::block_on(engine.forward(&args.ids, true, &NoPause))?;
    let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    let shape = vec![args.ids.len(), logits.len() / args.ids.len()];
    let write_error = |error: &dyn std::error::Error| {
        Error::new(ErrorCode::Io, format!("the logits could not be written: {error}"))
            .at(args.out.display().to_string())
    };
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(|error| write_error(&error))?;
    let file = safetensors::serialize([("logits", view)], None).map_err(|error| write_error(&error))?;
    std::fs::write(&args.out, file).map_err(|error| write_error(&error))
}
