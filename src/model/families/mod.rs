//! The registry of model families. A family is data: one function from metadata to a specification, and a row here.

mod llama;

use super::spec::{Activation, ModelSpec, RopeLayout, RopeScaling, RopeSpec};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Metadata;

/// A family: the architecture names it answers to and how its metadata is read.
pub struct Family {
    /// Short name, as shown to users.
    pub name: &'static str,
    /// Published models that it covers, for the support matrix.
    pub models: &'static str,
    /// Values of `general.architecture`.
    pub architectures: &'static [&'static str],
    /// Reads the specification.
    pub spec: fn(&Metadata) -> Result<ModelSpec>,
}

/// All families, in alphabetical order.
pub static FAMILIES: &[Family] = &[llama::FAMILY];

/// The specification of the model that `metadata` describes.
/// # Errors
/// `UnsupportedArchitecture` names the architecture and lists the known ones.
pub fn spec(metadata: &Metadata) -> Result<ModelSpec> {
    const KEY: &str = "general.architecture";
    let architecture = metadata.str(KEY)?.ok_or_else(|| crate::formats::metadata::missing(KEY))?;
    match FAMILIES.iter().find(|family| family.architectures.contains(&architecture)) {
        Some(family) => (family.spec)(metadata),
        None => {
            let known: Vec<_> = FAMILIES.iter().flat_map(|family| family.architectures).copied().collect();
            let message = format!(
                "architecture {architecture:?} is not supported; supported are: {}",
                known.join(", ")
            );
            Err(Error::new(ErrorCode::UnsupportedArchitecture, message).at(KEY))
        }
    }
}

/// Size of the vocabulary: its key, or else the number of tokens.
fn vocab_size(meta: &Metadata) -> Result<usize> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    match meta.strings(TOKENS)? {
        Some(tokens) if !tokens.is_empty() => Ok(tokens.len()),
        _ => {
            let key = meta.str("general.architecture")?.map(|arch| format!("{arch}.vocab_size"));
            meta.count(key.as_deref().unwrap_or(TOKENS))
        }
    }
}

/// Activation of the feed-forward block: the key `{arch}.hidden_activation` in Hugging Face's spelling, or `default`.
fn activation(meta: &Metadata, arch: &str, default: Activation) -> Result<Activation> {
    let key = format!("{arch}.hidden_activation");
    match meta.str(&key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some(other) => {
            let message =
                format!("activation {other:?} is not supported; supported are silu, gelu, gelu_pytorch_tanh");
            Err(Error::new(ErrorCode::InvalidValue, message).at(key))
        }
    }
}

/// Sliding window of all layers, when the file has one (0 means none).
fn window(meta: &Metadata, arch: &str) -> Result<Option<usize>> {
    let window = meta.u64(&format!("{arch}.attention.sliding_window"))?;
    Ok(window.and_then(|window| usize::try_from(window).ok()).filter(|window| *window > 0))
}

/// Rotary embedding from the keys `{arch}.rope.*`, which all families share.
fn rope(meta: &Metadata, arch: &str, layout: RopeLayout, head_dim: usize) -> Result<RopeSpec> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let n_dims = meta.count_or(&key("dimension_count"), head_dim)?;
    if n_dims > head_dim || n_dims % 2 != 0 {
        let message = format!("{n_dims} rotated elements of heads of {head_dim}");
        return Err(Error::new(ErrorCode::InvalidValue, message).at(key("dimension_count")));
    }
    let theta = meta.f32(&key("freq_base"))?.unwrap_or(10_000.0);
    let factor = match meta.f32(&key("scaling.factor"))? {
        Some(factor) => Some(factor),
        None => meta.f32(&key("scale_linear"))?,
    };
    for (name, value) in [("freq_base", Some(theta)), ("scaling.factor", factor)] {
        if value.is_some_and(|value| value <= 0.0) {
            let message = "must be above zero";
            return Err(Error::new(ErrorCode::InvalidValue, message).at(key(name)));
        }
    }
    // An absent type with a factor is the old spelling of linear scaling.
    let scaling = match (meta.str(&key("scaling.type"))?, factor) {
        (Some("none"), _) | (_, None) => RopeScaling::None,
        (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
        (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
            factor,
            original_context: meta.count(&key("scaling.original_context_length"))?,
            beta_fast: meta.f32(&key("scaling.yarn_beta_fast"))?.unwrap_or(32.0),
            beta_slow: meta.f32(&key("scaling.yarn_beta_slow"))?.unwrap_or(1.0),
            attn_factor: meta.f32(&key("scaling.attn_factor"))?.unwrap_or(1.0),
        },
        (Some(other), Some(_)) => {
            let message =
                format!("rope scaling {other:?} is not supported; supported are none, linear, yarn");
            return Err(Error::new(ErrorCode::InvalidValue, message).at(key("scaling.type")));
        }
    };
    Ok(RopeSpec { layout, n_dims, theta, scaling, freq_factors: true })
}
