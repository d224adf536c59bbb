//! A model as plain data.
//!
//! Principal type: [`ModelSpec`], one [`LayerSpec`] per layer, so that window patterns, layers without rope or mixed
//! stacks need no special code. Must not know tensor names, ops or backends.

mod altup;
mod miniature;
mod recurrent;

pub use altup::{AltUpSpec, PerLayerSpec};
pub use recurrent::{ChannelMixSpec, DeltaNetSpec, ShortConvSpec, TimeMixKind, TimeMixSpec};

/// A whole text model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Family name, as in the registry.
    pub family: &'static str,
    /// Rows of the embedding table, and width of the logits.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Context length the model was trained for.
    pub n_ctx_train: usize,
    /// All layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// The norm before the output head; encoders may have none.
    pub output_norm: Option<NormSpec>,
    /// The norm after the embedding (`token_embd_norm`).
    pub embed_norm: Option<NormSpec>,
    /// Positions of the learned table `position_embd`, if there is one (BERT).
    pub n_positions: Option<usize>,
    /// Whether every token is of type 0 of the table `token_types` (BERT), where the file holds that.
    pub token_types: bool,
    /// Widths of the layers behind the pooling of an embedder: `dense_2`, `dense_3` (EmbeddingGemma).
    pub dense: Vec<usize>,
    /// The precision that embeddings are rounded to behind their norm, where the checkpoint's own runtime does that
    /// when it loads (RWKV before 7).
    pub embed_rounding: Option<super::graph::Half>,
    /// Parallel residual streams around all layers (Gemma 3n).
    pub altup: Option<AltUpSpec>,
    /// Embeddings for each layer, added behind it (Gemma 4; those of Gemma 3n are in `altup`).
    pub per_layer: Option<PerLayerSpec>,
    /// Multiplies the embeddings (1 for most families).
    pub embed_scale: f32,
    /// Multiplies the logits (1 for most families).
    pub logit_scale: f32,
    /// `cap * tanh(logit / cap)` on the logits.
    pub logit_softcap: Option<f32>,
    /// What the model computes at the end.
    pub head: HeadSpec,
}

/// What a model gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadSpec {
    /// Logits over the vocabulary, by `output.weight` or the tied embedding table.
    Logits,
    /// A vector for a text: the pooled final hidden states.
    Embedding {
        /// How one vector comes from one per token.
        pooling: Pooling,
        /// Whether it is scaled to length 1.
        normalize: bool,
    },
}

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
}

/// One layer: `x += post(mixer(norm(x)))`, then `x += post(ffn(norm(x)))`, where all norms but one are optional.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Norm before the token mixer (`attn_norm`); `None` where the family norms only afterwards (OLMo 2, BERT).
    pub attn_norm: Option<NormSpec>,
    /// How tokens see each other.
    pub mixer: MixerSpec,
    /// Norm after the mixer.
    pub post_attn_norm: Option<NormSpec>,
    /// Norm before the feed-forward block (`ffn_norm`).
    pub ffn_norm: Option<NormSpec>,
    /// Feed-forward block.
    pub ffn: FfnSpec,
    /// Norm after the feed-forward block.
    pub post_ffn_norm: Option<NormSpec>,
    /// What the norms after are applied to.
    pub post_norms: PostNorms,
    /// Whether the feed-forward block reads what the mixer reads instead of its result (StableLM 12B).
    pub parallel: bool,
    /// Multiplies both branches before they are added (Granite; 1 elsewhere).
    pub residual_scale: f32,
}

/// What the norms after mixer and feed-forward block are applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostNorms {
    /// The block's output, before it is added (`post_attention_norm`, `post_ffw_norm`; Gemma 2, OLMo 2).
    Branch,
    /// The sum, which becomes the residual stream (`attn_output_norm`, `layer_output_norm`; BERT).
    Sum,
}

/// The part of a layer in which tokens see each other.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerSpec {
    /// Attention over a KV cache.
    Attention(AttentionSpec),
    /// RWKV's recurrence.
    TimeMix(TimeMixSpec),
    /// LFM2's gated short convolution.
    ShortConv(ShortConvSpec),
    /// Qwen3.5's gated delta net.
    DeltaNet(DeltaNetSpec),
}

/// A normalisation over the width of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// RMS or layer norm.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub eps: f32,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) * weight`
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer,
    /// `x / max(sqrt(sum(x²)), eps)`
    L2,
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head, of queries, keys and values alike.
    pub head_dim: usize,
    /// Rotary embedding; `None` for layers without position.
    pub rope: Option<RopeSpec>,
    /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Sliding window: a query sees this many last positions, itself included.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` on the scores.
    pub softcap: Option<f32>,
    /// Whether later positions are hidden.
    pub causal: bool,
    /// Norm of each query and key head before rope (`attn_q_norm`, `attn_k_norm`).
    pub qk_norm: Option<QkNorm>,
    /// Norm of each value head, without a weight (Gemma 3n).
    pub v_norm: Option<NormSpec>,
    /// Whether every head has a sink score (`attn_sinks.weight`).
    pub sinks: bool,
    /// Factor on the queries by position (Ministral 3).
    pub q_scale: Option<QueryScale>,
    /// Whether the result is multiplied by the sigmoid of a gate, which stands behind each query head in `attn_q`
    /// (Qwen3-Next).
    pub gated: bool,
    /// Whether values are the keys as projected, where the file has no `attn_v` (Gemma 4).
    pub keys_as_values: bool,
    /// The earlier layer whose cache this one reads instead of writing its own (Gemma 3n and 4).
    pub kv_from: Option<usize>,
}

/// Norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// Kind and epsilon.
    pub norm: NormSpec,
    /// What is normalised together.
    pub over: QkNormOver,
}

/// What a norm of queries and keys takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormOver {
    /// A head, with one weight `[head_dim]` for all heads (Qwen 3, Gemma 3).
    Head,
    /// A head, with a weight for each: `[n_heads, head_dim]` (StableLM 12B); none where the file holds no weights.
    EachHead,
    /// All heads: `[n_heads * head_dim]` (OLMo 2).
    Row,
}

/// Queries at position `pos` are multiplied by `1 + beta * ln(1 + floor(pos / original_context))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryScale {
    /// Strength.
    pub beta: f32,
    /// Context the model was first trained for, above 0.
    pub original_context: usize,
}

impl QueryScale {
    /// The factor at position `pos`.
    pub fn factor(&self, pos: usize) -> f32 {
        1.0 + self.beta * ((1 + pos / self.original_context) as f32).ln()
    }
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Which elements form a rotated pair.
    pub layout: RopeLayout,
    /// Rotated elements of a head; the rest passes through.
    pub n_dims: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
    /// Whether the file may hold `rope_freqs.weight` (`[n_dims / 2]`), by which each frequency is divided; of
    /// [`RopeScaling::Long`], `rope_factors_short.weight` and `rope_factors_long.weight`.
    pub freq_factors: bool,
}

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Elements `2i` and `2i + 1` (llama; q and k rows of the file are permuted to match).
    Norm,
    /// Elements `i` and `i + n_dims / 2`.
    Neox,
}

/// Stretching of rope frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every position divided by `factor`.
    Linear {
        /// Division of the positions.
        factor: f32,
    },
    /// As trained, up to this context: texts beyond it would each need a base of their own (dynamic NTK).
    Dynamic {
        /// Context the model was trained for.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071): low frequencies interpolated, high ones kept, ramp between; magnitude corrected.
    Yarn {
        /// Ratio of new to original context.
        factor: f32,
        /// Context the model was first trained for.
        original_context: usize,
        /// Rotations over the original context above which a dimension is kept.
        beta_fast: f32,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f32,
        /// Multiplies cos and sin.
        magnitude: f32,
        /// Whether the ramp begins and ends at whole dimensions (all but gpt-oss).
        truncate: bool,
    },
    /// LongRoPE (arXiv 2402.13753, Phi-3): frequencies divided by one list of factors for texts up to the original
    /// context, and by another for all positions of longer ones.
    Long {
        /// Context the model was first trained for.
        original_context: usize,
        /// Multiplies cos and sin of short texts.
        short_magnitude: f32,
        /// Multiplies cos and sin of long texts.
        long_magnitude: f32,
    },
}

/// Feed-forward block.
#[derive(Clone, Debug, PartialEq)]
pub enum FfnSpec {
    /// `down(act(gate(x)) * up(x))`
    Gated {
        /// Width between the projections.
        n_ff: usize,
        /// Activation of the gate.
        activation: Activation,
    },
    /// `down(act(up(x)))`
    Plain {
        /// Width between the projections.
        n_ff: usize,
        /// Activation between the projections.
        activation: Activation,
    },
    /// A sum of a few experts, chosen for each token.
    Moe(MoeSpec),
    /// RWKV's channel mixing, whose norm is `attn_norm_2`.
    ChannelMix(ChannelMixSpec),
}

/// A mixture of gated experts: `Σ weight_e · down_e(act(gate_e(x)) * up_e(x))` over the chosen, plus the shared expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeSpec {
    /// The choice.
    pub routing: Routing,
    /// Width between the projections of an expert.
    pub n_ff: usize,
    /// Activation of the gates.
    pub activation: Activation,
    /// An expert that every token uses besides.
    pub shared: Option<SharedExpert>,
}

/// The expert that all tokens use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Width between its projections.
    pub n_ff: usize,
    /// Whether its output is multiplied by `sigmoid(ffn_gate_inp_shexp · x)` (Qwen 2).
    pub gated: bool,
}

/// How the experts of a token are chosen and weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts of the layer.
    pub n_experts: usize,
    /// Experts used for a token.
    pub n_used: usize,
    /// Where the weights come from.
    pub gating: Gating,
    /// Whether the weights of the chosen are scaled to a sum of 1.
    pub renormalize: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// Where experts' weights come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gating {
    /// Softmax over all experts, then the best.
    Softmax,
    /// The best, then softmax over them (gpt-oss, Mixtral in effect).
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
    /// Phi-3.5-MoE's sparsemixer: two masked softmaxes with this jitter threshold.
    SparseMixer {
        /// `jitter_eps`: experts further from the best than twice this share of it are masked.
        jitter: f32,
    },
}

/// Activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `0.5 x (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`
    GeluTanh,
    /// gpt-oss: `g * sigmoid(alpha g)` with `g = min(x, limit)`; as a gate it multiplies `clamp(up, ±limit) + 1`.
    ClampedSwiglu {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Bound of gate (from above) and multiplier (both sides).
        limit: f32,
    },
}

/// The angle per position of each rotated pair, and the factor on the rotated values.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies {
    /// `[n_dims / 2]` radians per position.
    pub radians_per_pos: Vec<f64>,
    /// Multiplies cos and sin (YaRN's magnitude correction; 1 otherwise).
    pub magnitude: f32,
}

impl RopeSpec {
    /// The same rotation, not stretched for long contexts.
    pub fn unscaled(self) -> RopeSpec {
        RopeSpec { scaling: RopeScaling::None, freq_factors: false, ..self }
    }

    /// Frequencies of each rotated pair; `factors` is the content of `rope_freqs.weight`, or, of
    /// [`RopeScaling::Long`], of the list for texts that are `long` or not.
    pub fn frequencies(&self, factors: Option<&[f32]>, long: bool) -> RopeFrequencies {
        let n_pairs = self.n_dims / 2;
        let mut magnitude = 1.0;
        let mut radians = Vec::with_capacity(n_pairs);
        for pair in 0..n_pairs {
            let exponent = -2.0 * pair as f64 / self.n_dims as f64;
            let mut freq = f64::from(self.theta).powf(exponent);
            if let Some(factor) = factors.and_then(|f| f.get(pair)) {
                freq /= f64::from(*factor);
            }
            radians.push(match self.scaling {
                RopeScaling::None | RopeScaling::Dynamic { .. } => freq,
                RopeScaling::Linear { factor } => freq / f64::from(factor),
                RopeScaling::Yarn { factor, magnitude: scale, .. } => {
                    magnitude = scale;
                    let kept = self.yarn_ramp(pair);
                    freq / f64::from(factor) * (1.0 - kept) + freq * kept
                }
                RopeScaling::Long { short_magnitude, long_magnitude, .. } => {
                    magnitude = if long { long_magnitude } else { short_magnitude };
                    freq
                }
            });
        }
        RopeFrequencies { radians_per_pos: radians, magnitude }
    }

    /// 1 where a pair turns often enough to keep its frequency, 0 where it is interpolated, linear between
    /// (`find_correction_range` of the paper's code).
    fn yarn_ramp(&self, pair: usize) -> f64 {
        let RopeScaling::Yarn { original_context, beta_fast, beta_slow, truncate, .. } = self.scaling else {
            return 1.0;
        };
        let n_dims = self.n_dims as f64;
        let theta = f64::from(self.theta);
        let dim_of = |rotations: f32| {
            let turns = original_context as f64 / (f64::from(rotations) * std::f64::consts::TAU);
            n_dims * turns.ln() / (2.0 * theta.ln())
        };
        let (low, high) = (dim_of(beta_fast), dim_of(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(n_dims - 1.0));
        // Below zero where even the slowest of the betas turns more often than the original context is long: then every
        // pair is kept, as in transformers.
        let span = if high == low { 0.001 } else { high - low };
        let interpolated = (pair as f64 - low) / span;
        1.0 - interpolated.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(n_dims: usize, theta: f32, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { layout: RopeLayout::Norm, n_dims, theta, scaling, freq_factors: true }
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let found = rope(8, 10_000.0, RopeScaling::None).frequencies(None, false);
        assert_close(&found.radians_per_pos, &[1.0, 0.1, 0.01, 0.001]);
        assert_eq!(found.magnitude, 1.0);
    }

    #[test]
    fn factors_divide_and_linear_scaling_divides_all() {
        let plain = rope(8, 10_000.0, RopeScaling::None);
        let found = plain.frequencies(Some(&[1.0, 2.0, 4.0, 8.0]), false);
        assert_close(&found.radians_per_pos, &[1.0, 0.05, 0.0025, 0.000125]);
        let linear = rope(8, 10_000.0, RopeScaling::Linear { factor: 4.0 });
        let found = linear.frequencies(Some(&[1.0, 1.0, 1.0, 2.0]), false);
        assert_close(&found.radians_per_pos, &[0.25, 0.025, 0.0025, 0.000125]);
        assert_eq!(found.magnitude, 1.0);
    }

    /// Values of the formulas in Hugging Face's `_compute_yarn_parameters`, worked out apart from this code.
    #[test]
    fn yarn_keeps_fast_pairs_and_interpolates_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 256,
            beta_fast: 32.0,
            beta_slow: 1.0,
            magnitude: 1.5,
            truncate: true,
        };
        let found = rope(32, 10_000.0, scaling).frequencies(None, false);
        #[rustfmt::skip]
        let expected = [
            1.0, 0.5020904689199546, 0.24846467329894412, 0.12066895996692692, 0.05714285714285715,
            0.02610870438383764, 0.011293848786315641, 0.004445698525097307, 0.0025, 0.0014058533129758727,
            0.0007905694150420948, 0.0004445698525097307, 0.00025, 0.00014058533129758727,
            7.905694150420948e-05, 4.445698525097307e-05,
        ];
        assert_close(&found.radians_per_pos, &expected);
        assert_eq!(found.magnitude, 1.5);
    }

    /// As transformers' code gives it where no pair turns as seldom as the slow beta.
    #[test]
    fn yarn_keeps_all_pairs_of_a_very_short_original_context() {
        let scaling = RopeScaling::Yarn {
            factor: 8.0,
            original_context: 8,
            beta_fast: 16.0,
            beta_slow: 2.0,
            magnitude: 1.0,
            truncate: true,
        };
        let kept = rope(256, 777.0, scaling).frequencies(None, false);
        let plain = rope(256, 777.0, RopeScaling::None).frequencies(None, false);
        assert_close(&kept.radians_per_pos, &plain.radians_per_pos);
    }

    #[test]
    fn long_texts_have_factors_and_magnitude_of_their_own() {
        let scaling = RopeScaling::Long { original_context: 64, short_magnitude: 1.25, long_magnitude: 1.5 };
        let rope = rope(4, 10_000.0, scaling);
        let short = rope.frequencies(Some(&[1.0, 2.0]), false);
        let long = rope.frequencies(Some(&[4.0, 5.0]), true);
        assert_close(&short.radians_per_pos, &[1.0, 0.005]);
        assert_close(&long.radians_per_pos, &[0.25, 0.002]);
        assert_eq!((short.magnitude, long.magnitude), (1.25, 1.5));
    }
}
