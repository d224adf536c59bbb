//! SmolLM3: Llama's layers, every fourth without rope.

use super::{Decoder, Family};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::{Metadata, Value};
use crate::model::spec::{Activation, ModelSpec, NormKind};

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    models: "SmolLM3",
    architectures: &["smollm3"],
    hf_architectures: &[("SmolLM3ForCausalLM", "smollm3"), ("smollm3", "smollm3")],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|_| true)?;
    let rotated = rotated(&decoder)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, decoder.permuted_layout())?;
        attention.window = window;
        attention.rope = attention.rope.filter(|_| rotated[layer]);
        layers.push(decoder.layer(attention, decoder.gated(layer, Activation::Silu)?));
    }
    decoder.model("smollm3", layers)
}

/// Whether each layer rotates: config.json says it, GGUF has no key for it.
fn rotated(decoder: &Decoder) -> Result<Vec<bool>> {
    const KEY: &str = "config.no_rope_layers";
    match decoder.meta.get(KEY) {
        None => Ok((0..decoder.n_layers).map(|layer| (layer + 1) % 4 != 0).collect()),
        // Despite its name, 1 stands for a layer with rope.
        Some(Value::Uints(flags)) if flags.len() == decoder.n_layers => {
            Ok(flags.iter().map(|flag| *flag != 0).collect())
        }
        Some(_) => {
            let message = format!("needs a number for each of the {} layers", decoder.n_layers);
            Err(Error::new(ErrorCode::InvalidValue, message).at(KEY))
        }
    }
}
