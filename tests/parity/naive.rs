//! The ops once more, from their definitions alone, in f64 and without any care for speed.

use lamplight::backend::{Trace, trace_name};
use lamplight::model::graph::{Binary, Op, Operand, RopeDecl, Rows, Unary, ValueId, WeightDecl, WeightId};
use lamplight::model::spec::{Activation, NormKind, RopeLayout};

use crate::naive_recurrent::Memory;
use crate::support::{Model, decoded};

/// Interprets a model's graph; keeps the KV cache between steps.
pub(crate) struct Naive<'a> {
    model: &'a Model,
    weights: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    /// Per cache and position: rotated keys and values, `[n_kv_heads * head_dim]`.
    caches: Vec<Vec<(Vec<f64>, Vec<f64>)>>,
    /// Per recurrent state what it stands for.
    pub(crate) memory: Vec<Memory>,
    /// Whether steps of several tokens round what is multiplied by matrices to 127 steps of the largest of each eight.
    pub(crate) rounds: bool,
}

impl<'a> Naive<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        let weights = model.plan.dtypes.iter().zip(&model.bytes);
        let weights = weights
            .map(|(dtype, bytes)| decoded(*dtype, bytes).into_iter().map(f64::from).collect())
            .collect();
        let values = vec![Vec::new(); model.plan.graph.values.len()];
        let caches = vec![Vec::new(); model.plan.graph.kv.len()];
        let memory = vec![Memory::default(); model.plan.graph.states.len()];
        Naive { model, weights, values, caches, memory, rounds: false }
    }

    /// One step with all outputs.
    pub(crate) fn forward(&mut self, tokens: &[u32], pos: usize) -> Trace {
        self.forward_from(tokens, pos, &Trace::default())
    }

    /// The same, each op on what `led` says that the ops before it gave: what is lost in one is not lost in the next.
    pub(crate) fn forward_from(&mut self, tokens: &[u32], pos: usize, led: &Trace) -> Trace {
        let graph = &self.model.plan.graph;
        let mut trace = Trace::default();
        for (index, op) in graph.ops.iter().enumerate() {
            let out = op.writes();
            self.values[out.0] = self.run(op, tokens, pos);
            assert_eq!(self.values[out.0].len(), tokens.len() * graph.values[out.0].width);
            let rows = self.values[out.0].iter().map(|v| *v as f32).collect();
            let name = trace_name(graph, index);
            if let Some((_, found)) = led.values.iter().find(|(other, _)| *other == name) {
                self.values[out.0] = found.iter().copied().map(f64::from).collect();
            }
            trace.values.push((name, rows));
        }
        assert_eq!(graph.values[graph.logits.expect("logits").0].rows, Rows::Outputs);
        trace
    }

    pub(crate) fn width(&self, id: ValueId) -> usize {
        self.model.plan.graph.values[id.0].width
    }

    pub(crate) fn decl(&self, id: WeightId) -> &WeightDecl {
        &self.model.plan.graph.weights[id.0]
    }

    pub(crate) fn rows(&self, id: ValueId) -> impl Iterator<Item = &[f64]> {
        self.values[id.0].chunks(self.model.plan.graph.values[id.0].width)
    }

    pub(crate) fn weight(&self, id: WeightId) -> &[f64] {
        &self.weights[id.0]
    }

    /// What of the row `x` is multiplied in a step of `n_tokens`.
    fn multiplied(&self, x: &[f64], n_tokens: usize) -> Vec<f64> {
        if !self.rounds || n_tokens == 1 {
            return x.to_vec();
        }
        let round = |eight: &[f64]| {
            let scale = eight.iter().fold(1e-30, |most: f64, x| most.max(x.abs() / 127.0));
            eight.iter().map(|x| (x / scale).round() * scale).collect::<Vec<_>>()
        };
        x.chunks(8).flat_map(round).collect()
    }

    fn run(&mut self, op: &Op, tokens: &[u32], pos: usize) -> Vec<f64> {
        let graph = &self.model.plan.graph;
        match *op {
            Op::Embed { table, scale, .. } => {
                let n = graph.weights[table.0].n_cols;
                let n_rows = graph.weights[table.0].n_rows;
                let row = |t: &u32| {
                    let row = if (*t as usize) < n_rows { *t as usize } else { 0 };
                    self.weight(table)[row * n..][..n].iter()
                };
                tokens.iter().flat_map(row).map(|v| v * f64::from(scale)).collect()
            }
            Op::Norm { .. } => self.norm(op),
            Op::MatMul { x, weight, bias, add, scale, .. } => {
                let mut out = Vec::new();
                for (t, x) in self.rows(x).map(|x| self.multiplied(x, tokens.len())).enumerate() {
                    for (i, row) in self.weight(weight).chunks(x.len()).enumerate() {
                        let product: f64 = row.iter().zip(&x).map(|(w, x)| w * x).sum();
                        let bias = bias.map_or(0.0, |bias| self.weight(bias)[i]);
                        let add = add.map_or(0.0, |add| self.rows(add).nth(t).expect("row")[i]);
                        out.push((product + bias) * f64::from(scale) + add);
                    }
                }
                out
            }
            Op::RopeKvWrite { q, kv_rows, rope, q_scale, kv, .. } => {
                let turn = |row: &[f64], pos: usize| match rope {
                    None => row.to_vec(),
                    Some(rope) => self.rotated(rope.0, row, pos, graph.kv[kv].head_dim),
                };
                let factor = |pos: usize| {
                    q_scale.map_or(1.0, |scale| {
                        let n_contexts = pos / scale.original_context;
                        1.0 + f64::from(scale.beta) * (1.0 + n_contexts as f64).ln()
                    })
                };
                let scaled = |(t, q)| turn(q, pos + t).into_iter().map(move |q| q * factor(pos + t));
                let queries = self.rows(q).enumerate().flat_map(scaled).collect();
                let Some((k, v)) = kv_rows else { return queries };
                let rows = self.rows(k).zip(self.rows(v)).enumerate();
                let stored: Vec<_> = rows.map(|(t, (k, v))| (turn(k, pos + t), v.to_vec())).collect();
                self.caches[kv].truncate(pos);
                self.caches[kv].extend(stored);
                queries
            }
            Op::Attention { .. } => self.attention(op, pos),
            Op::GatedActivation { gate, up, activation, .. } => {
                let gated = self.values[gate.0].iter().zip(&self.values[up.0]);
                gated.map(|(g, u)| crate::naive_moe::gated(activation, *g, *u)).collect()
            }
            Op::Map { x, f, .. } => self.values[x.0].iter().map(|x| unary(f, *x)).collect(),
            Op::Combine { a, b, f, .. } => {
                let pairs = self.values[a.0].iter().zip(self.operand(b));
                pairs
                    .map(|(a, b)| match f {
                        Binary::Add => a + b,
                        Binary::Sub => a - b,
                        Binary::Mul => a * b,
                    })
                    .collect()
            }
            Op::Lerp { x, other, mix, .. } => {
                let pairs = self.values[x.0].iter().zip(&self.values[other.0]);
                pairs.zip(self.operand(mix)).map(|((x, other), mix)| x + (other - x) * mix).collect()
            }
            Op::Columns { x, first, run, stride, out } => {
                let n_runs = graph.values[out.0].width / run;
                let starts = |row| (0..n_runs).map(move |index| (row, first + index * stride));
                self.rows(x).flat_map(starts).flat_map(|(row, at)| &row[at..at + run]).copied().collect()
            }
            Op::AddPosition { x, table, .. } => {
                let n = graph.weights[table.0].n_cols;
                let rows = self.weight(table).iter().skip(pos * n);
                self.values[x.0].iter().zip(rows).map(|(x, row)| x + row).collect()
            }
            Op::TakeOutputs { x, .. } => self.values[x.0].clone(),
            Op::Route { .. }
            | Op::ExpertMatMul { .. }
            | Op::ExpertSum { .. }
            | Op::FusedGatedActivation { .. } => self.run_moe(op),
            _ => self.recurrent(op, pos),
        }
    }

    /// A value, or a vector over and over.
    fn operand(&self, operand: Operand) -> Box<dyn Iterator<Item = f64> + '_> {
        match operand {
            Operand::Value(value) => Box::new(self.values[value.0].iter().copied()),
            Operand::Vector(weight) => Box::new(self.weight(weight).iter().copied().cycle()),
        }
    }

    fn norm(&self, op: &Op) -> Vec<f64> {
        let Op::Norm { x, norm, group, weight, bias, add, .. } = *op else { unreachable!() };
        let width = self.model.plan.graph.values[x.0].width;
        let eps = f64::from(norm.eps);
        let mut out = Vec::new();
        for x in self.values[x.0].chunks(group) {
            let n = x.len() as f64;
            let mean = if norm.kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
            let squares = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
            let divisor = match norm.kind {
                NormKind::L2 => squares.sqrt().max(eps),
                NormKind::Rms | NormKind::Layer => (squares / n + eps).sqrt(),
            };
            for v in x {
                let column = out.len() % width;
                let of = |vector: Option<WeightId>, none: f64| {
                    vector.map_or(none, |vector| self.weight(vector)[column % self.weight(vector).len()])
                };
                let add = add.map_or(0.0, |add| self.values[add.0][out.len()]);
                out.push((v - mean) / divisor * of(weight, 1.0) + of(bias, 0.0) + add);
            }
        }
        out
    }

    fn rotated(&self, rope: usize, row: &[f64], pos: usize, head_dim: usize) -> Vec<f64> {
        let RopeDecl { spec, factors, .. } = &self.model.plan.graph.ropes[rope];
        let factors: Option<Vec<f32>> =
            factors.map(|factors| self.weight(factors).iter().map(|v| *v as f32).collect());
        let frequencies = spec.frequencies(factors.as_deref(), false);
        let mut row = row.to_vec();
        for head in row.chunks_mut(head_dim) {
            for (pair, radians) in frequencies.radians_per_pos.iter().enumerate() {
                let (i, j) = match spec.layout {
                    RopeLayout::Norm => (2 * pair, 2 * pair + 1),
                    RopeLayout::Neox => (pair, pair + spec.n_dims / 2),
                };
                let (sin, cos) = (radians * pos as f64).sin_cos();
                let (a, b) = (head[i], head[j]);
                head[i] = (a * cos - b * sin) * f64::from(frequencies.magnitude);
                head[j] = (a * sin + b * cos) * f64::from(frequencies.magnitude);
            }
        }
        row
    }

    fn attention(&self, op: &Op, pos: usize) -> Vec<f64> {
        let Op::Attention { q, kv, n_heads, scale, window, softcap, causal, sinks, .. } = *op else {
            unreachable!()
        };
        let head_dim = self.model.plan.graph.kv[kv].head_dim;
        let group = n_heads / self.model.plan.graph.kv[kv].n_kv_heads;
        let mut out = Vec::new();
        for (t, row) in self.rows(q).enumerate() {
            for (head, q) in row.chunks(head_dim).enumerate() {
                let at = head / group * head_dim;
                let end = if causal { pos + t + 1 } else { self.caches[kv].len() };
                let near = |p: &usize| window.is_none_or(|window| p.abs_diff(pos + t) < window);
                let visible = (0..end).filter(near);
                let scores = visible.map(|p| {
                    let k = &self.caches[kv][p].0[at..][..head_dim];
                    let score = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(scale);
                    let capped = softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh());
                    (p, capped.exp())
                });
                let scores: Vec<_> = scores.collect();
                let sink = sinks.map_or(0.0, |sinks| self.weight(sinks)[head].exp());
                let sum: f64 = sink + scores.iter().map(|(_, e)| e).sum::<f64>();
                for i in 0..head_dim {
                    out.push(scores.iter().map(|(p, e)| e / sum * self.caches[kv][*p].1[at + i]).sum());
                }
            }
        }
        out
    }
}

pub(crate) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let x = x.min(f64::from(limit));
            x / (1.0 + (-f64::from(alpha) * x).exp())
        }
    }
}

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Activation(activation) => activate(activation, x),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Relu2 if x < 0.0 => 0.0,
        Unary::Relu2 => x * x,
        Unary::ExpNegExp => (-x.exp()).exp(),
        Unary::Softcap(cap) => f64::from(cap) * (x / f64::from(cap)).tanh(),
        Unary::Scale(factor) => x * f64::from(factor),
        Unary::Round(half) => crate::streams::round(half, x),
    }
}

/// By Simpson's rule from 0: independent of any series for erf.
fn normal_cdf(x: f64) -> f64 {
    let n = 2000;
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let h = x / f64::from(n);
    let inner: f64 = (1..n).map(|i| density(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0.0) + inner + density(x)) * h / 3.0
}
