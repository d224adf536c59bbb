//! Command R and Command R7B (Cohere 2): layer norms without bias, both blocks from one norm, rope over adjacent pairs,
//! a factor on the logits. Cohere 2 slides in three layers of four, and the fourth does not rotate.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{Activation, ModelSpec, NormKind, QkNorm, QkNormOver, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "cohere",
    models: "Command R, Command R+; Command R7B, Command A; Aya Expanse",
    architectures: &["command-r", "cohere2"],
    hf_architectures: &[
        ("CohereForCausalLM", "command-r"),
        ("Cohere2ForCausalLM", "cohere2"),
        ("cohere", "command-r"),
        ("cohere2", "cohere2"),
    ],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Layer)?;
    let cohere2 = decoder.arch == "cohere2";
    let windows = decoder.windows(|layer| cohere2 && (layer + 1) % 4 != 0)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Norm)?;
        attention.window = window;
        attention.rope = attention.rope.filter(|_| !cohere2 || window.is_some());
        // Command R+ has weights for it.
        attention.qk_norm = (!cohere2).then_some(QkNorm { norm: decoder.norm, over: QkNormOver::EachHead });
        let mut spec = decoder.layer(attention, decoder.gated(layer, Activation::Silu)?);
        (spec.parallel, spec.ffn_norm) = (true, None);
        layers.push(spec);
    }
    let mut model = decoder.model("cohere", layers)?;
    let key =
        if meta.is_hugging_face() { "config.logit_scale".to_owned() } else { decoder.key("logit_scale") };
    model.logit_scale = meta.f32(&key)?.unwrap_or(1.0);
    Ok(model)
}
