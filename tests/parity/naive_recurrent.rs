//! Recurrent ops from their definitions, in f64: where there is a closed form over the whole past, that one.
#![allow(clippy::needless_range_loop, reason = "formulas have indices")]

use lamplight::model::graph::{Op, Operand, StateId, ValueId, WeightId};

use crate::naive::Naive;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What a recurrent op remembers: all its inputs, or per head a matrix of keys by values.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    rows: Vec<Vec<Vec<f64>>>,
    matrices: Vec<Vec<Vec<f64>>>,
}

impl Naive<'_> {
    pub(crate) fn recurrent(&mut self, op: &Op, pos: usize) -> Vec<f64> {
        match *op {
            Op::TokenShift { x, state, .. } => {
                let width = self.owned(x)[0].len();
                let first = self.remember(state, &[x], pos);
                let shifted = |t: usize| match t.checked_sub(1) {
                    None => vec![0.0; width],
                    Some(t) => self.memory[state.0].rows[0][t].clone(),
                };
                (first..self.memory[state.0].rows[0].len()).flat_map(shifted).collect()
            }
            Op::Wkv4 { k, v, decay, first, sums, .. } => {
                let begin = self.remember(sums, &[k, v], pos);
                let (loss, bonus) = (self.weight(decay).to_vec(), self.weight(first).to_vec());
                self.wkv4(sums, begin, &loss, &bonus)
            }
            Op::Wkv6 { .. } => self.wkv6(op, pos),
            Op::Wkv7Keys { k, rate, removal, replacement, n_heads, .. } => {
                let (removal, replacement) = (self.weight(removal), self.weight(replacement));
                let mut out = Vec::new();
                for (k, rate) in self.rows(k).zip(self.rows(rate)) {
                    let unit: Vec<f64> = k.iter().zip(removal).map(|(k, w)| k * w).collect();
                    let unit: Vec<f64> = unit
                        .chunks(k.len() / n_heads)
                        .flat_map(|head| head.iter().map(|v| v / dot(head, head).sqrt().max(1e-12)))
                        .collect();
                    let rate: Vec<f64> = rate.iter().map(|rate| sigmoid(*rate)).collect();
                    let keys = k.iter().zip(&rate).zip(replacement);
                    out.extend(keys.map(|((k, rate), w)| k * (1.0 + (rate - 1.0) * w)));
                    out.extend(unit.iter().map(|v| -v));
                    out.extend(unit.iter().zip(&rate).map(|(v, rate)| v * rate));
                }
                out
            }
            Op::Wkv7 { .. } => self.wkv7(op, pos),
            Op::Wkv7Bonus { x, r, keys, v, weight, n_heads, .. } => {
                let mut out = Vec::new();
                let rows = self.rows(x).zip(self.rows(r)).zip(self.rows(keys)).zip(self.rows(v));
                for (((x, r), keys), v) in rows {
                    let n = x.len() / n_heads;
                    for i in 0..x.len() {
                        let head = i / n * n..i / n * n + n;
                        let product = |c: usize| r[c] * keys[c] * self.weight(weight)[c];
                        out.push(x[i] + v[i] * head.map(product).sum::<f64>());
                    }
                }
                out
            }
            Op::ShortConv { x, weight, bias, kernel, state, .. } => {
                let begin = self.remember(state, &[x], pos);
                let inputs = &self.memory[state.0].rows[0];
                let mut out = Vec::new();
                for t in begin..inputs.len() {
                    for c in 0..inputs[t].len() {
                        let seen = (0..kernel.min(t + 1)).map(|back| {
                            inputs[t - back][c] * self.weight(weight)[c * kernel + kernel - 1 - back]
                        });
                        out.push(seen.sum::<f64>() + bias.map_or(0.0, |bias| self.weight(bias)[c]));
                    }
                }
                out
            }
            Op::GatedDelta { .. } => self.gated_delta(op, pos),
            _ => self.streams(op),
        }
    }

    fn owned(&self, id: ValueId) -> Vec<Vec<f64>> {
        self.rows(id).map(<[f64]>::to_vec).collect()
    }

    /// Appends the rows of `values` to the past of `state`; gives the first one's place.
    fn remember(&mut self, state: StateId, values: &[ValueId], pos: usize) -> usize {
        let new: Vec<_> = values.iter().map(|id| self.owned(*id)).collect();
        let memory = &mut self.memory[state.0];
        memory.rows.resize(values.len(), Vec::new());
        for (past, new) in memory.rows.iter_mut().zip(new) {
            past.truncate(pos);
            assert_eq!(past.len(), pos, "a step does not follow the last one");
            past.extend(new);
        }
        pos
    }

    /// The weighted mean in one formula: weights `e^(k_i - (t - 1 - i) e^decay)` of the past, `e^(first + k_t)` now.
    fn wkv4(&self, state: StateId, begin: usize, decay: &[f64], first: &[f64]) -> Vec<f64> {
        let (k, v) = (&self.memory[state.0].rows[0], &self.memory[state.0].rows[1]);
        let mut out = Vec::new();
        for t in begin..k.len() {
            for c in 0..decay.len() {
                let weight = |i: usize| match i == t {
                    true => (first[c] + k[t][c]).exp(),
                    false => (k[i][c] - (t - 1 - i) as f64 * decay[c].exp()).exp(),
                };
                let weights: f64 = (0..=t).map(weight).sum();
                out.push((0..=t).map(|i| weight(i) * v[i][c]).sum::<f64>() / weights);
            }
        }
        out
    }

    /// The matrices of `state`, `n_heads` of `n` by `n`, zero at the first position.
    fn matrices(&mut self, state: StateId, n_heads: usize, n: usize, pos: usize) -> Vec<Vec<f64>> {
        let found = std::mem::take(&mut self.memory[state.0].matrices);
        match pos {
            0 => vec![vec![0.0; n * n]; n_heads],
            _ => found.into_iter().next().expect("a step before"),
        }
    }

    fn keep(&mut self, state: StateId, matrices: Vec<Vec<f64>>) {
        self.memory[state.0].matrices = vec![matrices];
    }

    fn constant_or_rows(&self, operand: Operand, n_tokens: usize) -> Vec<Vec<f64>> {
        match operand {
            Operand::Value(id) => self.owned(id),
            Operand::Vector(WeightId(id)) => vec![self.weight(WeightId(id)).to_vec(); n_tokens],
        }
    }

    fn wkv6(&mut self, op: &Op, pos: usize) -> Vec<f64> {
        let Op::Wkv6 { r, k, v, decay, first, n_heads, n_kv_heads, scale, state, .. } = *op else {
            unreachable!()
        };
        let (r, k, v) = (self.owned(r), self.owned(k), self.owned(v));
        let decay = self.constant_or_rows(decay, r.len());
        let first = first.map(|first| self.weight(first).to_vec());
        let n = r[0].len() / n_heads;
        let mut matrices = self.matrices(state, n_heads, n, pos);
        let mut out = Vec::new();
        for t in 0..r.len() {
            for (head, s) in matrices.iter_mut().enumerate() {
                let kv = head * n_kv_heads / n_heads * n;
                let before = s.clone();
                let factor = |i: usize| (-decay[t][head * n + i].exp()).exp();
                for i in 0..n {
                    let share = if first.is_some() { 1.0 } else { 1.0 - factor(i) };
                    for j in 0..n {
                        s[i * n + j] = factor(i) * before[i * n + j] + share * k[t][kv + i] * v[t][kv + j];
                    }
                }
                for j in 0..n {
                    let read = |i: usize| {
                        let seen = match &first {
                            Some(first) => {
                                before[i * n + j] + first[head * n + i] * k[t][kv + i] * v[t][kv + j]
                            }
                            None => s[i * n + j],
                        };
                        r[t][head * n + i] * seen
                    };
                    out.push((0..n).map(read).sum::<f64>() * f64::from(scale));
                }
            }
        }
        self.keep(state, matrices);
        out
    }

    /// By whole matrix products, as the paper writes it: `S = S (diag(w) + a bᵀ) + v kᵀ`, values by keys.
    fn wkv7(&mut self, op: &Op, pos: usize) -> Vec<f64> {
        let Op::Wkv7 { r, decay, keys, v, n_heads, state, .. } = *op else { unreachable!() };
        let (r, decay, keys, v) = (self.owned(r), self.owned(decay), self.owned(keys), self.owned(v));
        let width = r[0].len();
        let n = width / n_heads;
        let mut matrices = self.matrices(state, n_heads, n, pos);
        let mut out = Vec::new();
        for t in 0..r.len() {
            for (head, s) in matrices.iter_mut().enumerate() {
                let at = head * n..(head + 1) * n;
                let part = |index: usize| &keys[t][index * width..][at.clone()];
                let (k, a, b) = (part(0), part(1), part(2));
                let before = s.clone();
                for value in 0..n {
                    let row = &before[value * n..][..n];
                    for key in 0..n {
                        let factor = (-(-0.5f64).exp() * sigmoid(decay[t][head * n + key])).exp();
                        s[value * n + key] =
                            row[key] * factor + dot(row, a) * b[key] + v[t][head * n + value] * k[key];
                    }
                    out.push(dot(&s[value * n..][..n], &r[t][at.clone()]));
                }
            }
        }
        self.keep(state, matrices);
        out
    }

    fn gated_delta(&mut self, op: &Op, pos: usize) -> Vec<f64> {
        let Op::GatedDelta { qkv, alpha, beta, decay, dt_bias, n_k_heads, n_v_heads, tiled, state, .. } = *op
        else {
            unreachable!()
        };
        let (qkv, alpha, beta) = (self.owned(qkv), self.owned(alpha), self.owned(beta));
        let (decay, dt_bias) = (self.weight(decay).to_vec(), self.weight(dt_bias).to_vec());
        let n = qkv[0].len() / (2 * n_k_heads + n_v_heads);
        let mut matrices = self.matrices(state, n_v_heads, n, pos);
        let mut out = Vec::new();
        for t in 0..qkv.len() {
            for (head, s) in matrices.iter_mut().enumerate() {
                let k_head = if tiled { head % n_k_heads } else { head * n_k_heads / n_v_heads };
                let part = |index: usize| &qkv[t][index * n..][..n];
                let unit = |x: &[f64]| x.iter().map(|v| v / (dot(x, x) + 1e-6).sqrt()).collect::<Vec<_>>();
                let (q, k) = (unit(part(k_head)), unit(part(n_k_heads + k_head)));
                let v = part(2 * n_k_heads + head);
                let g = decay[head] * (1.0 + (alpha[t][head] + dt_bias[head]).exp()).ln();
                for j in 0..n {
                    let column: Vec<f64> = (0..n).map(|i| s[i * n + j] * g.exp()).collect();
                    let delta = sigmoid(beta[t][head]) * (v[j] - dot(&column, &k));
                    let column: Vec<f64> = column.iter().zip(&k).map(|(s, k)| s + k * delta).collect();
                    out.push(dot(&column, &q) / (n as f64).sqrt());
                    (0..n).for_each(|i| s[i * n + j] = column[i]);
                }
            }
        }
        self.keep(state, matrices);
        out
    }
}
