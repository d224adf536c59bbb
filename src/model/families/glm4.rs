//! GLM-4-0414 and GLM-Z1: norms before and behind each block, rope over adjacent pairs of half of each head, biases on
//! q, k and v, gate and multiplier fused.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::names::same;
use crate::model::spec::{Activation, ModelSpec, NormKind, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "glm4",
    models: "GLM-4-0414, GLM-Z1 (dense)",
    architectures: &["glm4"],
    hf_architectures: &[("Glm4ForCausalLM", "glm4"), ("glm4", "glm4")],
    hf_names: &[
        same("layers.{}.post_self_attn_layernorm", "blk.{}.post_attention_norm"),
        same("layers.{}.post_mlp_layernorm", "blk.{}.post_ffw_norm"),
    ],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for layer in 0..decoder.n_layers {
        let attention = decoder.attention(layer, RopeLayout::Norm)?;
        let mut spec = decoder.layer(attention, decoder.gated(layer, Activation::Silu)?);
        (spec.post_attn_norm, spec.post_ffn_norm) = (Some(decoder.norm), Some(decoder.norm));
        layers.push(spec);
    }
    decoder.model("glm4", layers)
}
