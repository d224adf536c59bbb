//! Mixture of experts: the choice, the weighted sum, and what both sets of kernels need to know of the products.
//!
//! Principal functions: [`run`] and [`route`]. The choice is a handful of operations a token, so both sets share this
//! one, in f64. Must not know how weights are stored.

use super::Kernels;
use super::plan::Workspace;
use crate::model::graph::{Graph, Op, ValueId, WeightId};
use crate::model::spec::{Gating, Routing};

/// The constant operands of [`Op::ExpertMatMul`]. A pair is a token with one of its chosen experts, counted through.
pub(super) struct ExpertMatMul {
    pub(super) weight: WeightId,
    pub(super) bias: Option<WeightId>,
    pub(super) n_experts: usize,
    /// Experts chosen for a token.
    pub(super) n_used: usize,
    pub(super) n_cols: usize,
    /// Rows of one expert.
    pub(super) n_out: usize,
    /// Whether all experts of a token read one row.
    pub(super) shared_x: bool,
}

impl ExpertMatMul {
    /// The expert of a pair; `selection` is as [`Op::Route`] writes it.
    pub(super) fn expert(&self, selection: &[f32], pair: usize) -> usize {
        let index = selection[pair / self.n_used * 2 * self.n_used + pair % self.n_used];
        // Routes write whole numbers in range; the bound keeps memory safe whatever stands there.
        (index as usize).min(self.n_experts - 1)
    }

    /// The row of the source that a pair reads.
    pub(super) fn source_row(&self, pair: usize) -> usize {
        if self.shared_x { pair / self.n_used } else { pair }
    }

    /// Lists all pairs expert by expert, in `order`.
    pub(super) fn by_expert(&self, selection: &[f32], order: &mut Vec<usize>) {
        order.clear();
        order.extend(0..selection.len() / 2);
        order.sort_unstable_by_key(|pair| (self.expert(selection, *pair), *pair));
    }
}

/// Runs one of the ops of a mixture of experts for `n_rows` tokens, into `out`.
pub(super) fn run(
    op: &Op,
    graph: &Graph,
    kernels: &mut dyn Kernels,
    workspace: &Workspace,
    n_rows: usize,
    out: &mut [f32],
) {
    let width = |id: ValueId| graph.values[id.0].width;
    let read = |id: ValueId| workspace.get(id, n_rows * width(id));
    match *op {
        Op::Route { logits, routing, choice_bias, .. } => {
            let bias = choice_bias.map(|bias| kernels.vector(bias));
            let rows = read(logits).chunks_exact(routing.n_experts);
            for (logits, out) in rows.zip(out.chunks_exact_mut(2 * routing.n_used)) {
                route(&routing, logits, bias, out);
            }
        }
        Op::ExpertMatMul { x, selection, weight, bias, n_experts, .. } => {
            let n_used = width(selection) / 2;
            let (n_cols, n_out) =
                (graph.weights[weight.0].n_cols, graph.weights[weight.0].n_rows / n_experts);
            let shared_x = width(x) == n_cols;
            let op = ExpertMatMul { weight, bias, n_experts, n_used, n_cols, n_out, shared_x };
            kernels.expert_matmul(&op, read(x), read(selection), out);
        }
        Op::ExpertSum { x, selection, add, out: out_id } => {
            match add {
                None => out.fill(0.0),
                Some(add) if add == out_id => {}
                Some(add) => out.copy_from_slice(read(add)),
            }
            expert_sum(read(x), read(selection), width(selection) / 2, out, width(out_id));
        }
        Op::FusedGatedActivation { x, n_ff, activation, .. } => {
            for (x, out) in read(x).chunks_exact(2 * n_ff).zip(out.chunks_exact_mut(n_ff)) {
                let (gate, up) = x.split_at(n_ff);
                out.copy_from_slice(gate);
                kernels.gated_activation(activation, up, out);
            }
        }
        _ => unreachable!("invariant: only these ops are handed over"),
    }
}

/// Chooses experts for one token: `logits, bias: [n_experts]`, `out: [2 * n_used]`. Of equals the first is chosen, and
/// NaN only where nothing else is left, so that indices are distinct and in range whatever the logits are.
fn route(routing: &Routing, logits: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let logit = |expert: usize| f64::from(logits[expert]);
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    let weight = |expert: usize| match routing.gating {
        Gating::Softmax => (logit(expert) - largest).exp() / total,
        Gating::Sigmoid => 1.0 / (1.0 + (-logit(expert)).exp()),
        Gating::SoftmaxOfChosen | Gating::SparseMixer { .. } => logit(expert),
    };
    // The gates are monotonic, so without a bias the logits themselves tell the best, with no ties from rounding.
    let score = |expert: usize| match bias {
        Some(bias) => weight(expert) + f64::from(bias[expert]),
        None => logit(expert),
    };
    let (chosen, weights) = out.split_at_mut(routing.n_used);
    for index in 0..routing.n_used {
        let is_taken = |expert: usize| chosen[..index].contains(&(expert as f32));
        let mut best: Option<usize> = None;
        for expert in (0..routing.n_experts).filter(|expert| !is_taken(*expert)) {
            if best.is_none_or(|best| score(expert) > score(best) || score(best).is_nan()) {
                best = Some(expert);
            }
        }
        let best = best.expect("invariant: no more experts are used than there are");
        weights[index] = match routing.gating {
            Gating::SparseMixer { jitter } => {
                let rest = (0..routing.n_experts).filter(|expert| !is_taken(*expert)).map(logit);
                sparse_mixer(logit(best), rest, jitter.into()) as f32
            }
            Gating::SoftmaxOfChosen => (logit(best) - largest).exp() as f32,
            Gating::Softmax | Gating::Sigmoid => weight(best) as f32,
        };
        chosen[index] = best as f32;
    }
    let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let divisor = match routing.renormalize || routing.gating == Gating::SoftmaxOfChosen {
        true => sum,
        false => 1.0,
    };
    for weight in weights {
        *weight = (f64::from(*weight) / divisor * f64::from(routing.scale)) as f32;
    }
}

/// The softmax weight of the best of the `rest` (the experts not chosen before), those too far below it masked
/// (`sparsemixer` of transformers' modeling_phimoe.py, inference).
fn sparse_mixer(best: f64, rest: impl Iterator<Item = f64>, jitter: f64) -> f64 {
    let kept = rest.filter(|logit| best - logit <= 2.0 * jitter * logit.abs().max(best));
    1.0 / kept.map(|logit| (logit - best).exp()).sum::<f64>()
}

/// `out[t] += Σ_j weight j · x[t][j]`
fn expert_sum(x: &[f32], selection: &[f32], n_used: usize, out: &mut [f32], width: usize) {
    let tokens = x.chunks_exact(n_used * width).zip(selection.chunks_exact(2 * n_used));
    for ((x, selection), out) in tokens.zip(out.chunks_exact_mut(width)) {
        for (x, weight) in x.chunks_exact(width).zip(&selection[n_used..]) {
            out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(gating: Gating, renormalize: bool, logits: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let routing = Routing { n_experts: logits.len(), n_used: 2, gating, renormalize, scale: 1.0 };
        let mut out = vec![0.0; 4];
        route(&routing, logits, bias, &mut out);
        out
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{found:?} instead of {expected:?}");
        }
    }

    /// Values worked out apart from this code.
    #[test]
    fn gatings_weigh_as_defined() {
        let logits = [0.0, 2.0, -1.0, 1.0];
        assert_close(&routed(Gating::Softmax, false, &logits, None), &[1.0, 3.0, 0.643_914_3, 0.236_882_8]);
        assert_close(&routed(Gating::Softmax, true, &logits, None), &[1.0, 3.0, 0.731_058_6, 0.268_941_4]);
        let chosen = routed(Gating::SoftmaxOfChosen, false, &logits, None);
        assert_close(&chosen, &[1.0, 3.0, 0.731_058_6, 0.268_941_4]);
        assert_close(&routed(Gating::Sigmoid, false, &logits, None), &[1.0, 3.0, 0.880_797_1, 0.731_058_6]);
        // The bias changes the choice, not the weights.
        let biased = routed(Gating::Sigmoid, false, &logits, Some(&[0.0, 0.0, 5.0, 0.0]));
        assert_close(&biased, &[2.0, 1.0, 0.268_941_4, 0.880_797_1]);
    }

    /// With `2 · jitter` of 0.2, 1.9 stays in the softmax of 2.0 and 1.0 does not; in the second round 1.9 is the best.
    #[test]
    fn the_sparse_mixer_masks_what_is_far_from_the_best() {
        let found = routed(Gating::SparseMixer { jitter: 0.1 }, false, &[2.0, 1.9, 1.0, 1.6], None);
        let first = 1.0 / (1.0 + (-0.1_f32).exp() + (-0.4_f32).exp());
        let second = 1.0 / (1.0 + (-0.3_f32).exp());
        assert_close(&found, &[0.0, 1.0, first, second]);
    }

    #[test]
    fn hostile_logits_choose_distinct_experts() {
        for logits in [[f32::NAN; 3], [f32::INFINITY; 3], [f32::NEG_INFINITY; 3], [f32::NAN, 1.0, f32::NAN]] {
            for gating in [Gating::Softmax, Gating::Sigmoid, Gating::SparseMixer { jitter: 0.01 }] {
                let found = routed(gating, true, &logits, None);
                assert!(found[0] != found[1] && found[..2].iter().all(|index| *index < 3.0), "{found:?}");
            }
        }
        assert_eq!(routed(Gating::Softmax, true, &[f32::NAN, 1.0, f32::NAN], None)[0], 1.0);
    }
}
