//! Llama 2 and 3.x, SmolLM and SmolLM2, Mistral 7B, Mixtral, Ministral, MobileLLaMA, TinyLlama: everything that
//! publishes its GGUF as architecture `llama`, and Ministral 3 (`mistral3`). RMS norm, rope, grouped-query attention,
//! SwiGLU or experts of it.

use super::{Decoder, Family};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Metadata;
use crate::model::spec::{Gating, ModelSpec, NormKind, QueryScale, RopeScaling};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    models: "Llama 2, 3, 3.1, 3.2; SmolLM, SmolLM2; Mistral 7B; Mixtral; Ministral 8B; Ministral 3; TinyLlama; MobileLLaMA",
    architectures: &["llama", "mistral3"],
    hf_architectures: &[
        ("LlamaForCausalLM", "llama"),
        ("MistralForCausalLM", "llama"),
        ("MinistralForCausalLM", "llama"),
        ("MixtralForCausalLM", "llama"),
        ("Ministral3ForCausalLM", "mistral3"),
        ("llama", "llama"),
        ("mistral", "llama"),
        ("ministral", "llama"),
        ("ministral3", "mistral3"),
    ],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|_| true)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, decoder.permuted_layout())?;
        attention.window = window;
        attention.q_scale = query_scale(&decoder, attention.rope.as_ref().map(|rope| rope.scaling))?;
        layers.push(decoder.layer(attention, decoder.gated_or_moe(layer, Gating::SoftmaxOfChosen)?));
    }
    decoder.model("llama", layers)
}

/// Ministral 3's factor on queries far into the text.
fn query_scale(decoder: &Decoder, scaling: Option<RopeScaling>) -> Result<Option<QueryScale>> {
    let Some(beta) = decoder.f32("attention.temperature_scale")?.filter(|beta| *beta != 0.0) else {
        return Ok(None);
    };
    let length = decoder.key("attention.temperature_length");
    let original_context = match (decoder.meta.get(&length), scaling) {
        (Some(_), _) => decoder.meta.count(&length)?,
        (None, Some(RopeScaling::Yarn { original_context, .. })) => original_context,
        (None, _) => {
            let message = "a temperature of attention needs this key, or YaRN's original context";
            return Err(Error::new(ErrorCode::MissingKey, message).at(length));
        }
    };
    Ok(Some(QueryScale { beta, original_context }))
}
