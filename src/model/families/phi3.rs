//! Phi-3, 3.5-mini, Phi-4 and Phi-4-mini. Fused projections, partial rotary, LongRoPE, a window on all layers.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{Activation, ModelSpec, NormKind, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "phi3",
    models: "Phi-3-mini, Phi-3-medium; Phi-3.5-mini; Phi-4, Phi-4-mini",
    architectures: &["phi3"],
    hf_architectures: &[("Phi3ForCausalLM", "phi3"), ("phi3", "phi3")],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|_| true)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        attention.window = window;
        layers.push(decoder.layer(attention, decoder.gated(layer, Activation::Silu)?));
    }
    decoder.model("phi3", layers)
}
