//! Qwen 1.5 and 2 MoE (a gated shared expert, biases on q, k and v) and Qwen 3 MoE (norms on the heads of q and k).

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{
    Activation, FfnSpec, Gating, ModelSpec, NormKind, QkNorm, QkNormOver, RopeLayout, SharedExpert,
};

pub(super) const FAMILY: Family = Family {
    name: "qwen-moe",
    models: "Qwen1.5-MoE, Qwen2-57B-A14B; Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder MoE",
    architectures: &["qwen2moe", "qwen3moe"],
    hf_architectures: &[("Qwen2MoeForCausalLM", "qwen2moe"), ("Qwen3MoeForCausalLM", "qwen3moe")],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|_| true)?;
    let sparse = decoder.sparse_layers()?;
    let is_qwen3 = decoder.arch == "qwen3moe";
    let qk_norm = is_qwen3.then_some(QkNorm { norm: decoder.norm, over: QkNormOver::Head });
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        (attention.window, attention.qk_norm) = (window, qk_norm);
        let ffn = match sparse[layer] {
            false => decoder.gated(layer, Activation::Silu)?,
            true => {
                let mut moe = decoder.moe(layer, Gating::Softmax, is_qwen3)?;
                moe.shared = match is_qwen3 {
                    true => None,
                    false => Some(shared_expert(&decoder)?),
                };
                FfnSpec::Moe(moe)
            }
        };
        layers.push(decoder.layer(attention, ffn));
    }
    decoder.model("qwen-moe", layers)
}

fn shared_expert(decoder: &Decoder) -> Result<SharedExpert> {
    let n_ff = decoder.meta.count(&decoder.key("expert_shared_feed_forward_length"))?;
    Ok(SharedExpert { n_ff, gated: true })
}
