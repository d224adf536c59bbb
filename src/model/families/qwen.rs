//! Qwen 2, 2.5 and 3, dense. Qwen 2 has biases on q, k and v, Qwen 3 norms on the heads of q and k instead.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{Activation, ModelSpec, NormKind, QkNorm, QkNormOver, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "qwen",
    models: "Qwen2, Qwen2.5, Qwen2.5-Coder, Qwen2.5-Math; Qwen3 dense; Qwen3-Embedding",
    architectures: &["qwen2", "qwen3"],
    hf_architectures: &[
        ("Qwen2ForCausalLM", "qwen2"),
        ("Qwen3ForCausalLM", "qwen3"),
        ("Qwen3Model", "qwen3"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|_| true)?;
    let qk_norm = (decoder.arch == "qwen3").then_some(QkNorm { norm: decoder.norm, over: QkNormOver::Head });
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        (attention.window, attention.qk_norm) = (window, qk_norm);
        layers.push(decoder.layer(attention, decoder.gated(layer, Activation::Silu)?));
    }
    decoder.model("qwen", layers)
}
