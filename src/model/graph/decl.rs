//! What a graph's ops refer to: weights, values, rope tables, states, caches, and the small functions of elementwise ops.
//!
//! Must not know which ops there are.

use crate::model::spec::{Activation, RopeSpec};

/// Index into [`super::Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub usize);

/// Index into [`super::Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueId(pub usize);

/// Index into [`super::Graph::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub usize);

/// A tensor, or a run of a tensor's rows, that the graph reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDecl {
    /// Canonical (GGUF) name; of a run of rows, the name it would have by itself, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The fused tensor that holds the rows, and where they start; `None` for a tensor of its own.
    pub part_of: Option<(String, usize)>,
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
    /// Rows are looked up by token id ([`super::Op::Embed`]), and, when embeddings are tied, multiplied too.
    Embedding,
    /// Used by [`super::Op::MatMul`].
    Matrix,
    /// Norm weights, biases and rope factors: decoded to f32 at load.
    Vector,
}

/// For how many rows a value is computed in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row per token of the step.
    Tokens,
    /// One row per token whose logits are wanted (see [`super::Op::TakeOutputs`]).
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

/// A rope table.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeDecl {
    /// How it is computed.
    pub spec: RopeSpec,
    /// Divisors of its frequencies, `[n_dims / 2]`.
    pub factors: Option<WeightId>,
    /// The divisors for long texts, where those differ ([`super::Graph::long_rope_beyond`]).
    pub long_factors: Option<WeightId>,
}

/// Index into [`super::Graph::states`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateId(pub usize);

/// What a recurrent layer remembers between steps, in f32. A step at position 0 starts from `init`; any other step
/// continues where the last one ended, so recurrent models cannot go back to an earlier position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateDecl {
    /// Elements.
    pub len: usize,
    /// Value of every element before the first token.
    pub init: f32,
}

/// The second operand of an elementwise op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// One row per token, as wide as the first operand.
    Value(ValueId),
    /// The same row for every token, as wide as the first operand; in [`super::Op::Combine`] also one number for all.
    Vector(WeightId),
}

/// Function of one element, for [`super::Op::Map`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// An activation.
    Activation(Activation),
    /// `tanh(x)`
    Tanh,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `max(x, 0)²`
    Relu2,
    /// `exp(-exp(x))`, a decay from its logarithm.
    ExpNegExp,
    /// `cap * tanh(x / cap)`
    Softcap(f32),
    /// `x * factor`
    Scale(f32),
    /// To the nearest number of 16 bits, ties to even.
    Round(Half),
}

/// A floating-point format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

/// Function of two elements, for [`super::Op::Combine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
}

/// The key/value cache of one attention layer: `[n_ctx, n_kv_heads, head_dim]` each for K and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvDecl {
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions that one sees at most, itself and those before it: what lies further back may be forgotten. `None`: all.
    pub window: Option<usize>,
}

impl RopeDecl {
    /// The weight that holds the divisors for texts that are long or not.
    pub fn factors_for(&self, long: bool) -> Option<WeightId> {
        self.long_factors.filter(|_| long).or(self.factors)
    }
}
