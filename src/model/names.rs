//! Canonical tensor names: GGUF's, the field's lingua franca. Must not know shapes or families.

/// Name of a tensor of layer `layer`, such as `blk.3.attn_q.weight`.
pub fn layer(layer: usize, role: &str) -> String {
    format!("blk.{layer}.{role}")
}

/// Embedding table `[n_vocab, n_embd]`.
pub const TOKEN_EMBD: &str = "token_embd.weight";
/// Learned positions `[n_positions, n_embd]` (BERT).
pub const POSITION_EMBD: &str = "position_embd.weight";
/// Embeddings of token types `[n_types, n_embd]` (BERT).
pub const TOKEN_TYPES: &str = "token_types.weight";
/// Norm before the output head.
pub const OUTPUT_NORM: &str = "output_norm.weight";
/// Output head `[n_vocab, n_embd]`; absent when tied to the embedding.
pub const OUTPUT: &str = "output.weight";
/// Bias of the output head (Phi-3.5-MoE).
pub const OUTPUT_BIAS: &str = "output.bias";
/// Divisors of the rope frequencies (Llama 3.1 and later).
pub const ROPE_FREQS: &str = "rope_freqs.weight";
/// Divisors of the rope frequencies of texts up to the original context (Phi-3).
pub const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";
/// Divisors of the rope frequencies of longer texts.
pub const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
