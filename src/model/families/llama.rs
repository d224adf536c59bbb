//! Llama 2 and 3.x, SmolLM and SmolLM2, Mistral 7B, MobileLLaMA, TinyLlama: everything that publishes its GGUF as
//! architecture `llama`. RMS norm, rope over adjacent pairs, grouped-query attention, SwiGLU.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{Activation, ModelSpec, NormKind, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    models: "Llama 2, 3, 3.1, 3.2; SmolLM, SmolLM2; Mistral 7B; TinyLlama; MobileLLaMA",
    architectures: &["llama"],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|_| true)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Norm)?;
        attention.window = window;
        layers.push(decoder.layer(attention, decoder.gated(layer, Activation::Silu)?));
    }
    decoder.model("llama", layers)
}
