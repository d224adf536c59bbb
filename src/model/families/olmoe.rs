//! OLMoE: norms over the whole of q and k, eight of sixty-four experts with the weights that the softmax gives them.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{FfnSpec, Gating, ModelSpec, NormKind, QkNorm, QkNormOver, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "olmoe",
    models: "OLMoE-1B-7B",
    architectures: &["olmoe"],
    hf_architectures: &[("OlmoeForCausalLM", "olmoe")],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for layer in 0..decoder.n_layers {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        attention.qk_norm = Some(QkNorm { norm: decoder.norm, over: QkNormOver::Row });
        let moe = decoder.moe(layer, Gating::Softmax, false)?;
        layers.push(decoder.layer(attention, FfnSpec::Moe(moe)));
    }
    decoder.model("olmoe", layers)
}
