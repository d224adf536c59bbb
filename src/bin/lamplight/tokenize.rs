//! `lamplight tokenize`: the token ids of a text.

use std::path::PathBuf;

use lamplight::engine::{native, tokenizer};
use lamplight::error::Result;
use lamplight::text::EncodeOptions;
use serde_json::json;

use super::common::print_json;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GGUF file, or a folder with config.json and safetensors files
    model: PathBuf,
    /// The text
    #[arg(long, allow_hyphen_values = true)]
    text: String,
    /// Read special tokens that are written out in the text, such as `<|im_start|>`, as such
    #[arg(long)]
    special: bool,
    /// Do not add the tokens that the model wants at the beginning (and end) of a text
    #[arg(long)]
    no_bos: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (_, model) = pollster::block_on(native::open(&args.model))?;
    let tokenizer = tokenizer(&model)?;
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: args.special };
    print_json(&json!(tokenizer.encode(&args.text, options)))
}
