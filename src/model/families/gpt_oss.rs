//! gpt-oss: attention sinks, windows on every second layer from the first, biases everywhere, experts with a clamped
//! SwiGLU whose weights are a softmax over the chosen.
//!
//! GGUF files do not say whether YaRN's range of dimensions is rounded to whole ones; they are run as llama.cpp runs
//! them, rounded. A config.json says (`truncate`).

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::names::{HfName, How, same};
use crate::model::spec::{Activation, FfnSpec, Gating, ModelSpec, NormKind, RopeLayout};

pub(super) const FAMILY: Family = Family {
    name: "gpt-oss",
    models: "gpt-oss-20b, gpt-oss-120b",
    architectures: &["gpt-oss"],
    hf_architectures: &[("GptOssForCausalLM", "gpt-oss")],
    hf_names: &[
        HfName(
            "layers.{}.mlp.experts.gate_up_proj",
            "blk.{}.ffn_gate_exps.weight",
            How::Transposed { first: 0, step: 2 },
        ),
        HfName(
            "layers.{}.mlp.experts.gate_up_proj",
            "blk.{}.ffn_up_exps.weight",
            How::Transposed { first: 1, step: 2 },
        ),
        HfName(
            "layers.{}.mlp.experts.down_proj",
            "blk.{}.ffn_down_exps.weight",
            How::Transposed { first: 0, step: 1 },
        ),
        HfName(
            "layers.{}.mlp.experts.gate_up_proj_blocks",
            "blk.{}.ffn_gate_exps.weight",
            How::Rows { first: 0, step: 2 },
        ),
        HfName(
            "layers.{}.mlp.experts.gate_up_proj_blocks",
            "blk.{}.ffn_up_exps.weight",
            How::Rows { first: 1, step: 2 },
        ),
        same("layers.{}.mlp.experts.down_proj_blocks", "blk.{}.ffn_down_exps.weight"),
        HfName(
            "layers.{}.mlp.experts.gate_up_proj_bias",
            "blk.{}.ffn_gate_exps.bias",
            How::Rows { first: 0, step: 2 },
        ),
        HfName(
            "layers.{}.mlp.experts.gate_up_proj_bias",
            "blk.{}.ffn_up_exps.bias",
            How::Rows { first: 1, step: 2 },
        ),
        same("layers.{}.mlp.experts.down_proj_bias", "blk.{}.ffn_down_exps.bias"),
    ],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Rms)?;
    let windows = decoder.windows(|layer| layer.is_multiple_of(2))?;
    let limit = meta.f32("config.swiglu_limit")?.unwrap_or(7.0);
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for (layer, window) in windows.into_iter().enumerate() {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        (attention.window, attention.sinks) = (window, true);
        let mut moe = decoder.moe(layer, Gating::SoftmaxOfChosen, true)?;
        moe.activation = Activation::ClampedSwiglu { alpha: 1.702, limit };
        layers.push(decoder.layer(attention, FfnSpec::Moe(moe)));
    }
    decoder.model("gpt-oss", layers)
}
