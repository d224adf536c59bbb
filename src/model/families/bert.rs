//! Encoders: BERT (MiniLM, BGE, E5, GTE) with learned positions, nomic-bert with rope and SwiGLU. Every token sees all
//! others, norms follow the sums, and the final hidden states are pooled into one vector a text.

use super::{Decoder, Family};
use crate::error::Result;
use crate::formats::Metadata;
use crate::model::names::same;
use crate::model::spec::{
    Activation, HeadSpec, LayerSpec, ModelSpec, NormKind, Pooling, PostNorms, RopeLayout,
};

pub(super) const FAMILY: Family = Family {
    name: "bert",
    models: "BERT, MiniLM, BGE, E5, GTE; nomic-embed-text (embeddings)",
    architectures: &["bert", "nomic-bert"],
    hf_architectures: &[("BertModel", "bert"), ("BertForMaskedLM", "bert"), ("NomicBertModel", "nomic-bert")],
    hf_names: &[
        same("embeddings.word_embeddings", "token_embd"),
        same("embeddings.position_embeddings", "position_embd"),
        same("embeddings.token_type_embeddings", "token_types"),
        same("embeddings.LayerNorm", "token_embd_norm"),
        same("emb_ln", "token_embd_norm"),
        same("encoder.layer.{}.attention.self.query", "blk.{}.attn_q"),
        same("encoder.layer.{}.attention.self.key", "blk.{}.attn_k"),
        same("encoder.layer.{}.attention.self.value", "blk.{}.attn_v"),
        same("encoder.layer.{}.attention.output.dense", "blk.{}.attn_output"),
        same("encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm"),
        same("encoder.layer.{}.intermediate.dense", "blk.{}.ffn_up"),
        same("encoder.layer.{}.output.dense", "blk.{}.ffn_down"),
        same("encoder.layer.{}.output.LayerNorm", "blk.{}.layer_output_norm"),
        same("encoder.layers.{}.attn.Wqkv", "blk.{}.attn_qkv"),
        same("encoder.layers.{}.attn.out_proj", "blk.{}.attn_output"),
        same("encoder.layers.{}.norm1", "blk.{}.attn_output_norm"),
        same("encoder.layers.{}.norm2", "blk.{}.layer_output_norm"),
        same("encoder.layers.{}.mlp.fc11", "blk.{}.ffn_up"),
        same("encoder.layers.{}.mlp.fc12", "blk.{}.ffn_gate"),
        same("encoder.layers.{}.mlp.fc2", "blk.{}.ffn_down"),
    ],
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
        match &mut attention.rope {
            rope if learned_positions => *rope = None,
            // What transformers takes where config.json is silent.
            Some(rope) if meta.is_hugging_face() && decoder.f32("rope.freq_base")?.is_none() => {
                rope.theta = 1000.0
            }
            _ => {}
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
