//! The ops of mixtures of experts from their definitions.

use lamplight::model::graph::Op;
use lamplight::model::spec::{Activation, Gating, Routing};

use crate::naive::{Naive, activate};

impl Naive<'_> {
    pub(crate) fn run_moe(&self, op: &Op) -> Vec<f64> {
        match *op {
            Op::Route { logits, ref routing, choice_bias, .. } => {
                let bias = choice_bias.map(|bias| self.weight(bias));
                self.rows(logits).flat_map(|logits| route(routing, logits, bias)).collect()
            }
            Op::ExpertMatMul { .. } => self.expert_matmul(op),
            Op::ExpertSum { x, selection, add, out } => {
                let width = self.width(out);
                let mut sums = add.map_or(Vec::new(), |add| self.rows(add).flatten().copied().collect());
                sums.resize(self.rows(x).count() * width, 0.0);
                let tokens = self.rows(x).zip(self.rows(selection)).zip(sums.chunks_mut(width));
                for ((x, chosen), sums) in tokens {
                    let weights = &chosen[chosen.len() / 2..];
                    for (i, x) in x.iter().enumerate() {
                        sums[i % width] += weights[i / width] * x;
                    }
                }
                sums
            }
            Op::FusedGatedActivation { x, n_ff, activation, .. } => {
                let runs = self.rows(x).flat_map(|row| row.chunks(2 * n_ff));
                let element = |run: &[f64], i: usize| gated(activation, run[i], run[n_ff + i]);
                runs.flat_map(|run| (0..n_ff).map(move |i| element(run, i))).collect()
            }
            _ => unreachable!("an op that the tested graphs do not have"),
        }
    }

    fn expert_matmul(&self, op: &Op) -> Vec<f64> {
        let &Op::ExpertMatMul { x, selection, weight, bias, n_experts, .. } = op else { unreachable!() };
        let decl = self.decl(weight);
        let (n_cols, n_out) = (decl.n_cols, decl.n_rows / n_experts);
        let mut out = Vec::new();
        for (x, chosen) in self.rows(x).zip(self.rows(selection)) {
            for (j, expert) in chosen[..chosen.len() / 2].iter().enumerate() {
                let x = if x.len() == n_cols { x } else { &x[j * n_cols..][..n_cols] };
                for row in *expert as usize * n_out..(*expert as usize + 1) * n_out {
                    let weights = &self.weight(weight)[row * n_cols..][..n_cols];
                    let product: f64 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
                    out.push(product + bias.map_or(0.0, |bias| self.weight(bias)[row]));
                }
            }
        }
        out
    }
}

/// `activation(gate) * up`, and what gpt-oss makes of it.
pub(crate) fn gated(activation: Activation, gate: f64, up: f64) -> f64 {
    match activation {
        Activation::ClampedSwiglu { limit, .. } => {
            let limit = f64::from(limit);
            activate(activation, gate) * (up.clamp(-limit, limit) + 1.0)
        }
        _ => activate(activation, gate) * up,
    }
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

fn route(routing: &Routing, logits: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let gates = match routing.gating {
        Gating::Softmax => softmax(logits),
        Gating::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Gating::SoftmaxOfChosen | Gating::SparseMixer { .. } => logits.to_vec(),
    };
    let score = |i: usize| gates[i] + bias.map_or(0.0, |bias| bias[i]);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let chosen = &order[..routing.n_used];
    let mut weights: Vec<f64> = match routing.gating {
        Gating::Softmax | Gating::Sigmoid => chosen.iter().map(|i| gates[*i]).collect(),
        Gating::SoftmaxOfChosen => softmax(&chosen.iter().map(|i| logits[*i]).collect::<Vec<_>>()),
        Gating::SparseMixer { jitter } => {
            let weight = |rank: usize| {
                let best = logits[order[rank]];
                let far = |x: f64| (best - x) / x.abs().max(best) > 2.0 * f64::from(jitter);
                let kept = order[rank..].iter().map(|i| logits[*i]).filter(|x| !far(*x));
                best.exp() / kept.map(f64::exp).sum::<f64>()
            };
            (0..routing.n_used).map(weight).collect()
        }
    };
    let sum: f64 = if routing.renormalize { weights.iter().sum() } else { 1.0 };
    weights.iter_mut().for_each(|weight| *weight *= f64::from(routing.scale) / sum);
    chosen.iter().map(|i| *i as f64).chain(weights).collect()
}
