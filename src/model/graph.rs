//! A model as a list of coarse ops over named values: what the backends run.
//!
//! Principal type: [`Graph`]. [`Op`] is a closed enum, so `match` makes the compiler demand the CPU twin of every GPU
//! op, and coarse, so that a fused kernel is one op. The graph is symbolic in the number of tokens and the position;
//! it is built once per model. Must not know any buffer or kernel.

use super::spec::{Activation, NormSpec, RopeSpec};

/// Index into [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);

/// Index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueId(pub usize);

/// Index into [`Graph::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub usize);

/// A tensor that the graph reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDecl {
    /// Canonical (GGUF) name.
    pub name: String,
    /// Contiguous elements per row.
    pub n_cols: usize,
    /// Rows; 1 for vectors.
    pub n_rows: usize,
    /// What the weight is for: matrices may be stored in any format, vectors are read as f32.
    pub kind: WeightKind,
}

/// How a weight is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightKind {
    /// Rows are looked up by token id ([`Op::Embed`]), and, when embeddings are tied, multiplied too.
    Embedding,
    /// Used by [`Op::MatMul`].
    Matrix,
    /// Norm weights, biases and rope factors: decoded to f32 at load.
    Vector,
}

/// For how many rows a value is computed in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row per token of the step.
    Tokens,
    /// One row per token whose logits are wanted (see [`Op::TakeOutputs`]).
    Outputs,
}

/// An intermediate result, `[n_rows, width]` in f32, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueDecl {
    /// Stable name for debugging, such as `layers.3.attn_out`.
    pub name: String,
    /// Elements of a row.
    pub width: usize,
    /// Which rows there are.
    pub rows: Rows,
}

/// The key/value cache of one attention layer: `[n_ctx, n_kv_heads, head_dim]` each for K and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvDecl {
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// One step of the computation. All values are f32.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[t] = table[token[t]] * scale`; `out: [n_tokens, n_embd]`.
    Embed {
        /// Embedding table `[n_vocab, n_embd]`.
        table: WeightId,
        /// Factor on the row.
        scale: f32,
        /// Destination.
        out: ValueId,
    },
    /// `out[t] = norm(x[t]) * weight (+ bias)`; both `[n_tokens, width]`.
    Norm {
        /// Source.
        x: ValueId,
        /// Kind and epsilon.
        norm: NormSpec,
        /// `[width]`.
        weight: WeightId,
        /// `[width]`.
        bias: Option<WeightId>,
        /// Destination, never the source.
        out: ValueId,
    },
    /// `out[t] = weight · x[t] (+ bias) (+ add[t])`; `x: [n_tokens, n_cols]`, `out: [n_tokens, n_rows]`.
    MatMul {
        /// Source.
        x: ValueId,
        /// `[n_rows, n_cols]`.
        weight: WeightId,
        /// `[n_rows]`.
        bias: Option<WeightId>,
        /// Residual added to the product; may be the destination itself (`out += …`).
        add: Option<ValueId>,
        /// Factor on the finished sum (1 but for scaled logits).
        scale: f32,
        /// Destination, never the source.
        out: ValueId,
    },
    /// Rotates q in place and k on its way into the cache, and stores k and v at the step's positions.
    /// `q: [n_tokens, n_heads, head_dim]`, `k, v: [n_tokens, n_kv_heads, head_dim]`.
    RopeKvWrite {
        /// Queries, rotated in place.
        q: ValueId,
        /// Keys.
        k: ValueId,
        /// Values.
        v: ValueId,
        /// Query heads.
        n_heads: usize,
        /// Rotation; `None` stores k and leaves q as they are.
        rope: Option<RopeId>,
        /// Index into [`Graph::kv`].
        kv: usize,
    },
    /// `out[t] = softmax(scale · q[t] Kᵀ) V` over the cached positions `<= pos + t`, per query head.
    /// `q, out: [n_tokens, n_heads, head_dim]`.
    Attention {
        /// Rotated queries.
        q: ValueId,
        /// Index into [`Graph::kv`].
        kv: usize,
        /// Query heads.
        n_heads: usize,
        /// Factor on the scores.
        scale: f32,
        /// Sliding window in positions, the query's own included.
        window: Option<usize>,
        /// Soft cap of the scores.
        softcap: Option<f32>,
        /// Destination, never the source.
        out: ValueId,
    },
    /// `out = activation(gate) * up`, elementwise; all `[n_tokens, n_ff]`. `out` may be `gate`.
    GatedActivation {
        /// Goes through the activation.
        gate: ValueId,
        /// Multiplies it.
        up: ValueId,
        /// Which function.
        activation: Activation,
        /// Destination.
        out: ValueId,
    },
    /// Copies the rows whose logits are wanted (the step's last row, or all): `[n_tokens, w]` to `[n_outputs, w]`.
    TakeOutputs {
        /// Source.
        x: ValueId,
        /// Destination.
        out: ValueId,
    },
}

/// The whole computation of one step (decode: one token; prefill: a chunk).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    /// Tensors to load.
    pub weights: Vec<WeightDecl>,
    /// Intermediate values.
    pub values: Vec<ValueDecl>,
    /// Rope tables in use (layers share them), with the weight that holds frequency factors.
    pub ropes: Vec<(RopeSpec, Option<WeightId>)>,
    /// Caches, one per attention layer.
    pub kv: Vec<KvDecl>,
    /// In order of execution.
    pub ops: Vec<Op>,
    /// The result, `[n_outputs, n_vocab]`.
    pub logits: Option<ValueId>,
}

impl Op {
    /// Values that the op reads (the destination too where it accumulates).
    pub fn reads(&self) -> Vec<ValueId> {
        match *self {
            Op::Embed { .. } => vec![],
            Op::Norm { x, .. } | Op::TakeOutputs { x, .. } => vec![x],
            Op::MatMul { x, add, .. } => [Some(x), add].into_iter().flatten().collect(),
            Op::RopeKvWrite { q, k, v, .. } => vec![q, k, v],
            Op::Attention { q, .. } => vec![q],
            Op::GatedActivation { gate, up, .. } => vec![gate, up],
        }
    }

    /// The value that the op writes.
    pub fn writes(&self) -> ValueId {
        match *self {
            Op::Embed { out, .. }
            | Op::Norm { out, .. }
            | Op::MatMul { out, .. }
            | Op::Attention { out, .. }
            | Op::GatedActivation { out, .. }
            | Op::TakeOutputs { out, .. } => out,
            Op::RopeKvWrite { q, .. } => q,
        }
    }
}
