//! Phi-3.5-MoE: layer norms, biases on every projection of the attention and on the head, LongRoPE, two experts of
//! sixteen by the sparse mixer.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{FfnSpec, Gating, ModelSpec, NormKind, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "phimoe",
    models: "Phi-3.5-MoE, Phi-mini-MoE",
    architectures: &["phimoe"],
    hf_architectures: &[("PhimoeForCausalLM", "phimoe"), ("PhiMoEForCausalLM", "phimoe")],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    // The epsilon stands under the name of the other kind of norm.
    let mut decoder = Decoder::read(meta, NormKind::Rms)?;
    decoder.norm.kind = NormKind::Layer;
    let windows = decoder.windows(|_| true)?;
    let jitter = meta.f32("config.router_jitter_noise")?.unwrap_or(0.01);
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        attention.window = window;
        let moe = decoder.moe(layer, Gating::SparseMixer { jitter }, false)?;
        layers.push(decoder.layer(attention, FfnSpec::Moe(moe)));
    }
    decoder.model("phimoe", layers)
}
