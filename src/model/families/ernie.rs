//! ERNIE 4.5, dense: Llama's layers with rope over adjacent pairs in every kind of file.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{Activation, ModelSpec, NormKind, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "ernie",
    models: "ERNIE 4.5 0.3B",
    architectures: &["ernie4_5"],
    hf_architectures: &[("Ernie4_5ForCausalLM", "ernie4_5"), ("ernie4_5", "ernie4_5")],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for layer in 0..decoder.n_layers {
        let attention = decoder.attention(layer, RopeLayout::Norm)?;
        layers.push(decoder.layer(attention, decoder.gated(layer, Activation::Silu)?));
    }
    decoder.model("ernie", layers)
}
