//! Recurrent ops: what they remember between steps, and which kernel runs.
//!
//! Principal type: [`States`]. Ops whose arithmetic is nothing beside the matrix products are here for both sets of
//! kernels; the recurrences over a matrix per head are theirs ([`Recurrences`]). Must not know how weights are stored.

use super::plan::zeroed;
use crate::backend::ModelPlan;
use crate::error::Result;
use crate::model::graph::{Op, Operand, StateDecl, StateId, ValueId, WeightId};

/// What recurrent layers remember.
pub(super) struct States {
    decls: Vec<StateDecl>,
    buffers: Vec<Vec<f32>>,
}

/// The recurrences over a matrix per head. Slices have the lengths that the ops say.
pub(super) struct Recurrences {
    /// [`Op::Wkv6`]
    pub(super) wkv6: fn(&Wkv6, &mut [f32], &mut [f32]),
    /// [`Op::Wkv7`]
    pub(super) wkv7: fn(&Wkv7, &mut [f32], &mut [f32]),
    /// [`Op::GatedDelta`]
    pub(super) gated_delta: fn(&GatedDelta, &mut [f32], &mut [f32]),
}

/// Widest head that the recurrences take.
pub(super) const MAX_HEAD_DIM: usize = 256;

/// Operands of [`Op::Wkv6`].
pub(super) struct Wkv6<'a> {
    pub(super) r: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// One row per token, or one for all.
    pub(super) decay: &'a [f32],
    pub(super) first: Option<&'a [f32]>,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f32,
}

impl Wkv6<'_> {
    /// The decay factor `e^(-e^decay)` of key `i` of `head` at `token`.
    pub(super) fn factor(&self, token: usize, head: usize, i: usize) -> f32 {
        let width = self.n_heads * self.head_dim;
        let row = if self.decay.len() == width { 0 } else { token };
        (-self.decay[row * width + head * self.head_dim + i].exp()).exp()
    }
}

/// Operands of [`Op::Wkv7`].
pub(super) struct Wkv7<'a> {
    pub(super) r: &'a [f32],
    pub(super) decay: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) n_heads: usize,
    pub(super) head_dim: usize,
}

impl Wkv7<'_> {
    /// The decay factor of element `at` of the decay.
    pub(super) fn factor(&self, at: usize) -> f32 {
        (-(-0.5f32).exp() * sigmoid(self.decay[at])).exp()
    }
}

/// Operands of [`Op::GatedDelta`].
pub(super) struct GatedDelta<'a> {
    pub(super) qkv: &'a [f32],
    pub(super) alpha: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) decay: &'a [f32],
    pub(super) dt_bias: &'a [f32],
    pub(super) n_k_heads: usize,
    pub(super) n_v_heads: usize,
    pub(super) head_dim: usize,
    pub(super) tiled: bool,
}

/// What one value head of [`Op::GatedDelta`] gets of a token.
pub(super) struct DeltaHead<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// Factors that bring q to length `1 / sqrt(head_dim)` and k to length 1.
    pub(super) q_factor: f64,
    pub(super) k_factor: f64,
    /// `e^g`
    pub(super) decay: f32,
    pub(super) beta: f32,
}

impl GatedDelta<'_> {
    /// Value head `head` at `token`.
    pub(super) fn head(&self, token: usize, head: usize) -> DeltaHead<'_> {
        let Self { n_k_heads, n_v_heads, head_dim, .. } = *self;
        let row = &self.qkv[token * (2 * n_k_heads + n_v_heads) * head_dim..];
        let k_head = if self.tiled { head % n_k_heads } else { head / (n_v_heads / n_k_heads) };
        let part = |index: usize| &row[index * head_dim..][..head_dim];
        let (q, k, v) = (part(k_head), part(n_k_heads + k_head), part(2 * n_k_heads + head));
        let inverse = |x: &[f32]| 1.0 / (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() + 1e-6).sqrt();
        let at = token * n_v_heads + head;
        let step = f64::from(self.alpha[at] + self.dt_bias[head]);
        // softplus, without overflow for large steps.
        let softplus = step.max(0.0) + (-step.abs()).exp().ln_1p();
        DeltaHead {
            q,
            k,
            v,
            q_factor: inverse(q) / (head_dim as f64).sqrt(),
            k_factor: inverse(k),
            decay: (f64::from(self.decay[head]) * softplus).exp() as f32,
            beta: sigmoid(self.beta[at]),
        }
    }
}

/// Where an op's operands are found.
pub(super) trait Operands {
    /// The step's rows of a value.
    fn value(&self, id: ValueId) -> &[f32];
    /// A vector.
    fn vector(&self, id: WeightId) -> &[f32];
}

impl States {
    /// Those of `plan`, which are made when they are first reset.
    pub(super) fn new(plan: &ModelPlan) -> States {
        let decls = plan.graph.states.clone();
        States { buffers: vec![Vec::new(); decls.len()], decls }
    }

    /// Forgets everything.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn reset(&mut self) -> Result<()> {
        for (decl, buffer) in self.decls.iter().zip(&mut self.buffers) {
            if buffer.is_empty() {
                *buffer = zeroed(decl.len, "recurrent state")?;
            }
            buffer.fill(decl.init);
        }
        Ok(())
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| 4 * buffer.len() as u64).sum()
    }

    fn get(&mut self, id: StateId) -> &mut [f32] {
        &mut self.buffers[id.0]
    }

    /// Runs a recurrent op over the rows of `out`, which holds the source where the op works in place.
    pub(super) fn run(&mut self, op: &Op, kernels: &Recurrences, of: &impl Operands, out: &mut [f32]) {
        match *op {
            Op::TokenShift { x, state, .. } => token_shift(of.value(x), self.get(state), out),
            Op::Wkv4 { k, v, decay, first, sums, max, .. } => {
                let mut max = std::mem::take(&mut self.buffers[max.0]);
                wkv4(
                    [of.value(k), of.value(v)],
                    [of.vector(decay), of.vector(first)],
                    self.get(sums),
                    &mut max,
                    out,
                );
                let Op::Wkv4 { max: id, .. } = *op else { unreachable!("invariant: of this arm") };
                self.buffers[id.0] = max;
            }
            Op::Wkv6 { r, k, v, decay, first, n_heads, n_kv_heads, scale, state, .. } => {
                let head_dim = head_dim(self.get(state), n_heads);
                let decay = match decay {
                    Operand::Value(decay) => of.value(decay),
                    Operand::Vector(decay) => of.vector(decay),
                };
                let first = first.map(|first| of.vector(first));
                let (r, k, v) = (of.value(r), of.value(k), of.value(v));
                let op = Wkv6 { r, k, v, decay, first, n_heads, n_kv_heads, head_dim, scale };
                (kernels.wkv6)(&op, self.get(state), out);
            }
            Op::Wkv7Keys { k, rate, removal, replacement, n_heads, .. } => {
                let weights = [of.vector(removal), of.vector(replacement)];
                wkv7_keys([of.value(k), of.value(rate)], weights, n_heads, out);
            }
            Op::Wkv7 { r, decay, keys, v, n_heads, state, .. } => {
                let head_dim = head_dim(self.get(state), n_heads);
                let (r, decay, keys, v) = (of.value(r), of.value(decay), of.value(keys), of.value(v));
                (kernels.wkv7)(&Wkv7 { r, decay, keys, v, n_heads, head_dim }, self.get(state), out);
            }
            Op::Wkv7Bonus { r, keys, v, weight, n_heads, .. } => {
                wkv7_bonus([of.value(r), of.value(keys), of.value(v)], of.vector(weight), n_heads, out);
            }
            Op::ShortConv { x, weight, bias, state, .. } => {
                let bias = bias.map(|bias| of.vector(bias));
                short_conv(of.value(x), of.vector(weight), bias, self.get(state), out);
            }
            Op::GatedDelta {
                qkv, alpha, beta, decay, dt_bias, n_k_heads, n_v_heads, tiled, state, ..
            } => {
                let head_dim = head_dim(self.get(state), n_v_heads);
                let (qkv, alpha, beta) = (of.value(qkv), of.value(alpha), of.value(beta));
                let (decay, dt_bias) = (of.vector(decay), of.vector(dt_bias));
                let op =
                    GatedDelta { qkv, alpha, beta, decay, dt_bias, n_k_heads, n_v_heads, head_dim, tiled };
                (kernels.gated_delta)(&op, self.get(state), out);
            }
            _ => unreachable!("invariant: called for recurrent ops"),
        }
    }
}

/// Width of a head whose state is square.
fn head_dim(state: &[f32], n_heads: usize) -> usize {
    (state.len() / n_heads).isqrt()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn token_shift(x: &[f32], state: &mut [f32], out: &mut [f32]) {
    let width = state.len();
    let (first, rest) = out.split_at_mut(width);
    first.copy_from_slice(state);
    rest.copy_from_slice(&x[..rest.len()]);
    state.copy_from_slice(&x[x.len() - width..]);
}

fn wkv4(
    [k, v]: [&[f32]; 2],
    [decay, first]: [&[f32]; 2],
    sums: &mut [f32],
    max: &mut [f32],
    out: &mut [f32],
) {
    let width = max.len();
    let (num, den) = sums.split_at_mut(width);
    let rows = k.chunks_exact(width).zip(v.chunks_exact(width));
    for ((k, v), out) in rows.zip(out.chunks_exact_mut(width)) {
        for c in 0..width {
            let now = first[c] + k[c];
            let p = max[c].max(now);
            let (before, now) = ((max[c] - p).exp(), (now - p).exp());
            out[c] = (before * num[c] + now * v[c]) / (before * den[c] + now);
            let kept = max[c] - decay[c].exp();
            let p = kept.max(k[c]);
            let (kept, now) = ((kept - p).exp(), (k[c] - p).exp());
            num[c] = kept * num[c] + now * v[c];
            den[c] = kept * den[c] + now;
            max[c] = p;
        }
    }
}

fn wkv7_keys([k, rate]: [&[f32]; 2], [removal, replacement]: [&[f32]; 2], n_heads: usize, out: &mut [f32]) {
    let width = removal.len();
    let head_dim = width / n_heads;
    for (token, out) in out.chunks_exact_mut(3 * width).enumerate() {
        let (k, rate) = (&k[token * width..][..width], &rate[token * width..][..width]);
        let (written, rest) = out.split_at_mut(width);
        let (forgotten, added) = rest.split_at_mut(width);
        for first in (0..width).step_by(head_dim) {
            let head = first..first + head_dim;
            let squares: f64 = head.clone().map(|c| f64::from(k[c] * removal[c]).powi(2)).sum();
            let factor = 1.0 / squares.sqrt().max(1e-12);
            for c in head {
                let rate = sigmoid(rate[c]);
                let removed = (f64::from(k[c] * removal[c]) * factor) as f32;
                written[c] = k[c] * (1.0 + (rate - 1.0) * replacement[c]);
                forgotten[c] = -removed;
                added[c] = removed * rate;
            }
        }
    }
}

/// The source is in `out`.
fn wkv7_bonus([r, keys, v]: [&[f32]; 3], weight: &[f32], n_heads: usize, out: &mut [f32]) {
    let width = weight.len();
    let head_dim = width / n_heads;
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        let (r, v) = (&r[token * width..], &v[token * width..]);
        let k = &keys[token * 3 * width..];
        for first in (0..width).step_by(head_dim) {
            let head = first..first + head_dim;
            let product: f64 = head.clone().map(|c| f64::from(r[c] * k[c] * weight[c])).sum();
            for c in head {
                out[c] += product as f32 * v[c];
            }
        }
    }
}

/// `weight: [width, kernel]`, `state: [kernel - 1, width]`.
fn short_conv(x: &[f32], weight: &[f32], bias: Option<&[f32]>, state: &mut [f32], out: &mut [f32]) {
    // The state holds one input less than the kernel sees.
    let width = weight.len() - state.len();
    let before = state.len() / width;
    let n_tokens = x.len() / width;
    // Input `at` of the last ones and then the step's.
    let row = |state: &'_ [f32], at: usize, c: usize| match at.checked_sub(before) {
        None => state[at * width + c],
        Some(token) => x[token * width + c],
    };
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            let weights = &weight[c * (before + 1)..][..before + 1];
            let products = weights.iter().enumerate().map(|(j, weight)| weight * row(state, token + j, c));
            *out = products.sum::<f32>() + bias.map_or(0.0, |bias| bias[c]);
        }
    }
    // In rising order: a row is read before it is overwritten.
    for at in 0..before {
        for c in 0..width {
            state[at * width + c] = row(state, at + n_tokens, c);
        }
    }
}
