//! The registry of model families. A family is data: one function from metadata to a specification, and a row here.

mod bert;
mod cohere;
mod common;
mod exaone;
mod gemma;
mod gpt_oss;
mod granite;
mod llama;
mod olmo;
mod olmoe;
mod phi3;
mod phimoe;
mod qwen;
mod qwen_moe;
mod rwkv;
mod smollm3;
mod stablelm;

use super::spec::{Activation, HeadSpec, ModelSpec, Pooling};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Metadata;
use common::Decoder;

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
pub static FAMILIES: &[Family] = &[
    bert::FAMILY,
    cohere::FAMILY,
    exaone::FAMILY,
    gemma::FAMILY,
    gpt_oss::FAMILY,
    granite::FAMILY,
    llama::FAMILY,
    olmo::FAMILY,
    olmoe::FAMILY,
    phi3::FAMILY,
    phimoe::FAMILY,
    qwen::FAMILY,
    qwen_moe::FAMILY,
    rwkv::FAMILY,
    smollm3::FAMILY,
    stablelm::FAMILY,
];

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

/// What the model gives: embeddings where its files say how to pool (`{arch}.pooling_type`, numbered as ggml does), else
/// logits. Vectors are scaled to length 1 unless `{arch}.embedding_normalize` says otherwise.
fn head(meta: &Metadata, arch: &str) -> Result<HeadSpec> {
    let key = format!("{arch}.pooling_type");
    let pooling = match meta.u64(&key)? {
        None | Some(0) => return Ok(HeadSpec::Logits),
        Some(1) => Pooling::Mean,
        Some(2) => Pooling::Cls,
        Some(3) => Pooling::Last,
        Some(other) => {
            let message = format!(
                "pooling {other} is not supported; supported are 1 (mean), 2 (first token), 3 (last token)"
            );
            return Err(Error::new(ErrorCode::InvalidValue, message).at(key));
        }
    };
    let normalize = meta.bool(&format!("{arch}.embedding_normalize"))?.unwrap_or(true);
    Ok(HeadSpec::Embedding { pooling, normalize })
}
