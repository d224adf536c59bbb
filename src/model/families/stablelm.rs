//! StableLM 3B, StableLM 2 1.6B and 12B, Zephyr 3B. Layer norms, partial rotary; the 12B norms each head of q and k by
//! weights of its own and computes both blocks from one norm.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::names::same;
use crate::model::spec::{Activation, ModelSpec, NormKind, QkNorm, QkNormOver, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "stablelm",
    models: "StableLM 3B; StableLM 2 1.6B, 12B; StableLM Zephyr 3B",
    architectures: &["stablelm"],
    hf_architectures: &[
        ("StableLmForCausalLM", "stablelm"),
        ("StableLMEpochForCausalLM", "stablelm"),
        ("stablelm", "stablelm"),
    ],
    hf_names: &[
        same("layers.{}.self_attn.q_layernorm.norms.{}", "blk.{}.attn_q_norm"),
        same("layers.{}.self_attn.k_layernorm.norms.{}", "blk.{}.attn_k_norm"),
    ],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Layer)?;
    let parallel = meta.bool(&decoder.key("use_parallel_residual"))?.unwrap_or(false);
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for layer in 0..decoder.n_layers {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        // Where the file holds weights for it.
        attention.qk_norm = Some(QkNorm { norm: decoder.norm, over: QkNormOver::EachHead });
        let mut spec = decoder.layer(attention, decoder.gated(layer, Activation::Silu)?);
        if parallel {
            (spec.parallel, spec.ffn_norm) = (true, None);
        }
        layers.push(spec);
    }
    decoder.model("stablelm", layers)
}
