//! Encoders: BERT (MiniLM, BGE, E5, GTE) with learned positions, nomic-bert with rope and SwiGLU. Every token sees all
//! others, norms follow the sums, and the final hidden states are pooled into one vector a text.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::spec::{
    Activation, HeadSpec, LayerSpec, ModelSpec, NormKind, Pooling, PostNorms, RopeLayout,
};

pub(super) const FAMILY: Family = Family {
    name: "bert",
    models: "BERT, MiniLM, BGE, E5, GTE; nomic-embed-text (embeddings)",
    architectures: &["bert", "nomic-bert"],
    hf_architectures: &[],
    hf_names: &[],
    spec,
};

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let decoder = Decoder::read(meta, NormKind::Layer)?;
    let learned_positions = decoder.arch == "bert";
    let mut layers = Vec::with_capacity(decoder.n_layers);
    for layer in 0..decoder.n_layers {
        let mut attention = decoder.attention(layer, RopeLayout::Neox)?;
        attention.causal = false;
        let ffn = match learned_positions {
            true => decoder.plain(layer, Activation::Gelu)?,
            false => decoder.gated(layer, Activation::Silu)?,
        };
        if learned_positions {
            attention.rope = None;
        }
        layers.push(LayerSpec {
            attn_norm: None,
            post_attn_norm: Some(decoder.norm),
            ffn_norm: None,
            post_ffn_norm: Some(decoder.norm),
            post_norms: PostNorms::Sum,
            ..decoder.layer(attention, ffn)
        });
    }
    let mut model = decoder.model("bert", layers)?;
    model.output_norm = None;
    model.embed_norm = Some(decoder.norm);
    model.n_positions = learned_positions.then_some(model.n_ctx_train);
    model.token_types = true;
    if model.head == HeadSpec::Logits {
        // Files that do not say how to pool are pooled as most are.
        model.head = HeadSpec::Embedding { pooling: Pooling::Mean, normalize: true };
    }
    Ok(model)
}
