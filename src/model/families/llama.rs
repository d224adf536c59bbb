//! Llama 2 and 3.x, SmolLM and SmolLM2, Mistral 7B, MobileLLaMA, TinyLlama: everything that publishes its GGUF as
//! architecture `llama`. RMS norm, rope over adjacent pairs, grouped-query attention, SwiGLU.

use super::Family;
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Metadata;
use crate::formats::metadata::missing;
use crate::model::spec::{
    Activation, AttentionSpec, FfnSpec, HeadSpec, LayerSpec, MixerSpec, ModelSpec, NormKind, NormSpec,
    PostNorms, RopeLayout,
};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    models: "Llama 2, 3, 3.1, 3.2; SmolLM, SmolLM2; Mistral 7B; TinyLlama; MobileLLaMA",
    architectures: &["llama"],
    spec,
};

/// Widest `n_heads * head_dim`: far beyond any model, and safe to multiply on a 32-bit machine.
const MAX_ATTENTION_WIDTH: usize = 1 << 20;

/// Layers beyond this are a broken file, not a model.
const MAX_LAYERS: usize = 1024;

fn spec(meta: &Metadata) -> Result<ModelSpec> {
    let key = |name: &str| format!("llama.{name}");
    let n_layers = meta.count(&key("block_count"))?;
    if n_layers > MAX_LAYERS {
        let message = format!("{n_layers} layers; at most {MAX_LAYERS} are supported");
        return Err(Error::new(ErrorCode::LimitExceeded, message).at(key("block_count")));
    }
    let n_embd = meta.count(&key("embedding_length"))?;
    let n_heads = meta.per_layer(&key("attention.head_count"), n_layers, None)?;
    let n_kv_heads = match meta.get(&key("attention.head_count_kv")) {
        None => n_heads.clone(),
        Some(_) => meta.per_layer(&key("attention.head_count_kv"), n_layers, None)?,
    };
    let n_ff = meta.per_layer(&key("feed_forward_length"), n_layers, None)?;
    let eps = meta
        .f32(&key("attention.layer_norm_rms_epsilon"))?
        .ok_or_else(|| missing(&key("attention.layer_norm_rms_epsilon")))?;
    if eps < 0.0 {
        let at = key("attention.layer_norm_rms_epsilon");
        return Err(Error::new(ErrorCode::InvalidValue, format!("{eps} is below zero")).at(at));
    }
    let activation = super::activation(meta, "llama", Activation::Silu)?;
    let norm = NormSpec { kind: NormKind::Rms, eps };

    let mut layers = Vec::with_capacity(n_layers);
    for layer in 0..n_layers {
        let attention = attention(meta, n_embd, n_heads[layer], n_kv_heads[layer])?;
        let ffn = FfnSpec::Gated { n_ff: n_ff[layer], activation };
        layers.push(LayerSpec {
            attn_norm: Some(norm),
            mixer: MixerSpec::Attention(attention),
            post_attn_norm: None,
            ffn_norm: Some(norm),
            ffn,
            post_ffn_norm: None,
            post_norms: PostNorms::Branch,
            parallel: false,
            residual_scale: 1.0,
        });
    }
    Ok(ModelSpec {
        family: "llama",
        n_vocab: super::vocab_size(meta)?,
        n_embd,
        n_ctx_train: meta.count(&key("context_length"))?,
        layers,
        output_norm: Some(norm),
        embed_norm: None,
        embed_scale: 1.0,
        logit_scale: 1.0,
        logit_softcap: None,
        head: HeadSpec::Logits,
    })
}

fn attention(meta: &Metadata, n_embd: usize, n_heads: usize, n_kv_heads: usize) -> Result<AttentionSpec> {
    const HEADS: &str = "llama.attention.head_count";
    let invalid = |message: String, key: &str| Err(Error::new(ErrorCode::InvalidValue, message).at(key));
    if n_heads == 0 || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        return invalid(format!("{n_heads} query heads cannot share {n_kv_heads} key/value heads"), HEADS);
    }
    let head_dim = match meta.get("llama.attention.key_length") {
        Some(_) => meta.count("llama.attention.key_length")?,
        None if n_embd.is_multiple_of(n_heads) => n_embd / n_heads,
        None => {
            return invalid(format!("width {n_embd} does not divide into {n_heads} heads"), HEADS);
        }
    };
    if n_heads.saturating_mul(head_dim) > MAX_ATTENTION_WIDTH {
        let message =
            format!("{n_heads} heads of {head_dim}; at most {MAX_ATTENTION_WIDTH} elements are supported");
        return Err(Error::new(ErrorCode::LimitExceeded, message).at(HEADS));
    }
    if meta.count_or("llama.attention.value_length", head_dim)? != head_dim {
        return invalid("value heads of another width than key heads".into(), "llama.attention.value_length");
    }
    Ok(AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        rope: Some(super::rope(meta, "llama", RopeLayout::Norm, head_dim)?),
        scale: meta.f32("llama.attention.scale")?.unwrap_or(1.0 / (head_dim as f32).sqrt()),
        window: super::window(meta, "llama")?,
        softcap: None,
        causal: true,
        qk_norm: None,
        v_norm: None,
        sinks: false,
        q_scale: None,
        kv_from: None,
    })
}
