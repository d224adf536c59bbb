//! Where the time of decoded tokens goes, op by op.
//!
//! Must not know how an op is computed.

use web_time::Instant;

use super::{CpuBackend, fast};
use crate::backend::{Outputs, Profile};
use crate::error::Result;
use crate::model::graph::{Graph, Op};

impl CpuBackend {
    /// A step of one token that adds its ops' times to `profile`. Bytes are those of the fast kernels.
    /// # Errors
    /// As [`crate::backend::Backend::forward`].
    pub(super) async fn profiled(
        &mut self,
        tokens: &[u32],
        pos: usize,
        outputs: Outputs,
        profile: &mut Profile,
    ) -> Result<Vec<f32>> {
        let bytes = fast::weight_bytes(&self.plan);
        let mut last = Instant::now();
        let mut note = |graph: &Graph, index: usize, _: &[f32]| {
            let seconds = last.elapsed().as_secs_f64();
            profile.add(kind(graph, index), seconds, bytes_read(graph, index, pos, &bytes));
            last = Instant::now();
        };
        let logits = self.step(tokens, pos, outputs, Some(&mut note)).await?;
        profile.steps += 1;
        Ok(logits)
    }
}

/// The name of an op's matrix, or of what it writes, without its layer.
fn kind(graph: &Graph, index: usize) -> &str {
    let name = match &graph.ops[index] {
        Op::MatMul { weight, .. } | Op::ExpertMatMul { weight, .. } => &graph.weights[weight.0].name,
        // Mostly waiting for the others.
        Op::Exchange(_) => return "exchange",
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
