//! Where the time of a step goes, op by op.
//!
//! Principal type: [`Profile`]. Native only. Must not know how an op is computed.

use web_time::Instant;

use super::{CpuBackend, exchange, fast};
use crate::backend::Outputs;
use crate::error::Result;
use crate::model::graph::{Graph, Op};

/// One kind of op: those with a matrix of the same name in any layer, or that write a value of the same name.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTime {
    /// That name, layers left out, such as `attn_q` or `attn_out`.
    pub name: String,
    /// Seconds, over all steps.
    pub seconds: f64,
    /// Bytes of weights and of the KV cache that it read, over all steps.
    pub bytes: u64,
}

/// Times of decoded tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// In the order of their first run.
    pub ops: Vec<OpTime>,
    /// Steps measured.
    pub steps: usize,
}

impl CpuBackend {
    /// Runs one step of `token` at `pos`, and adds its ops' times to `profile`. Bytes are those of the fast kernels.
    /// # Errors
    /// As [`crate::backend::Backend::forward`].
    pub fn profile(&mut self, token: u32, pos: usize, profile: &mut Profile) -> Result<Vec<f32>> {
        let bytes = fast::weight_bytes(&self.plan);
        let mut last = Instant::now();
        let mut note = |graph: &Graph, index: usize, _: &[f32]| {
            let seconds = last.elapsed().as_secs_f64();
            profile.add(kind(graph, index), seconds, bytes_read(graph, index, pos, &bytes));
            last = Instant::now();
        };
        let logits = exchange::at_once(self.step(&[token], pos, Outputs::Last, Some(&mut note)))?;
        profile.steps += 1;
        Ok(logits)
    }
}

impl Profile {
    /// Adds one run of `name`.
    pub fn add(&mut self, name: &str, seconds: f64, bytes: u64) {
        let index = self.ops.iter().position(|op| op.name == name).unwrap_or_else(|| {
            self.ops.push(OpTime { name: name.to_owned(), seconds: 0.0, bytes: 0 });
            self.ops.len() - 1
        });
        self.ops[index].seconds += seconds;
        self.ops[index].bytes += bytes;
    }
}

/// The name of an op's matrix, or of what it writes, without its layer.
fn kind(graph: &Graph, index: usize) -> &str {
    let name = match &graph.ops[index] {
        Op::MatMul { weight, .. } | Op::ExpertMatMul { weight, .. } => &graph.weights[weight.0].name,
        op => &graph.values[op.writes().0].name,
    };
    let rest = name.strip_prefix("layers.").or_else(|| name.strip_prefix("blk."));
    let name = rest.and_then(|rest| rest.split_once('.')).map_or(name.as_str(), |(_, kind)| kind);
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Bytes that matter: matrices' and the cache's.
fn bytes_read(graph: &Graph, index: usize, pos: usize, weights: &[u64]) -> u64 {
    match graph.ops[index] {
        Op::MatMul { weight, .. } => weights[weight.0],
        Op::ExpertMatMul { weight, selection, n_experts, .. } => {
            weights[weight.0] / n_experts as u64 * (graph.values[selection.0].width as u64 / 2)
        }
        Op::Attention { kv, window, .. } => {
            let decl = graph.kv[kv];
            let n_positions = window.map_or(pos + 1, |window| window.min(pos + 1));
            // Keys and values of two bytes each.
            (4 * decl.n_kv_heads * decl.head_dim * n_positions) as u64
        }
        _ => 0,
    }
}
