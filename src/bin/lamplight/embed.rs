//! `lamplight embed`: texts to vectors.

use lamplight::engine::{EmbedRequest, NoPause};
use lamplight::error::Result;
use serde_json::json;

use super::common::{ModelArgs, print_json};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A text; give it again for several
    #[arg(long, required = true, allow_hyphen_values = true)]
    text: Vec<String>,
    /// Keep only so many leading elements of each vector
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut engine = args.model.load(None)?;
    let request = EmbedRequest { input: args.text, dimensions: args.dimensions };
    let embeddings = pollster::block_on(engine.embed(&request, &NoPause))?;
    embeddings.vectors.iter().try_for_each(|vector| print_json(&json!(vector)))
}
