//! One model on several workers that share nothing: what each of them holds and computes.
//!
//! Principal function: [`shard`], from a whole graph to the graph of one shard. Rows of matrices are shared out, and
//! with them the heads of attention and their caches, and the columns that elementwise ops go on with. Before an op that
//! needs all of a value, an [`Exchange`] puts the parts together. What cannot be cut is computed by every shard. All
//! sums are those of the whole graph, in the same order, so the results are the same to the last bit. Neither families
//! nor kernels know of it. Must not know how parts travel.

mod operands;
mod parts;
mod recurrent;
mod work;

use std::collections::HashMap;

use super::graph::{Graph, Op, Operand, RopeDecl, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use operands::{values_mut, weights_mut};
pub use parts::Parts;
use parts::{Heads, Layout, attends, elementwise, even};
pub use work::{Measured, Pace, Work};

/// An op that needs the other shards.
#[derive(Clone, Debug, PartialEq)]
pub enum Exchange {
    /// Puts together what each shard has of a value: `x: [n_tokens, n_runs, own columns]` to
    /// `out: [n_tokens, n_runs, run_len]`.
    Gather {
        /// This shard's part.
        x: ValueId,
        /// All parts.
        parts: Parts,
        /// Destination, never the source.
        out: ValueId,
    },
    /// As [`Op::Embed`], with the rows of the table spread over the shards.
    Embed {
        /// This shard's rows of the table.
        table: WeightId,
        /// The first row of each shard, and the number of rows.
        bounds: Vec<usize>,
        /// Factor on the row.
        scale: f32,
        /// Destination.
        out: ValueId,
    },
}

/// Which shard, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// From 0.
    pub index: usize,
    /// At least 1.
    pub count: usize,
    /// Matrices of fewer elements are not worth an exchange: every shard has all of them.
    pub least: usize,
}

/// Rows of a matrix, or elements of a vector: the same `len` of each of `n_runs` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Held {
    /// The weight of the whole graph.
    pub weight: WeightId,
    /// Equal runs that make up the weight.
    pub n_runs: usize,
    /// Rows of a run, those of others included.
    pub run_len: usize,
    /// The first row of a run that is held.
    pub start: usize,
    /// How many are.
    pub len: usize,
}

/// The graph of one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// What it computes; the logits are whole.
    pub graph: Graph,
    /// Of each of its weights, where the rows come from; in the order of the whole graph's weights.
    pub held: Vec<Held>,
}

/// The part of `whole` that falls to one shard.
pub fn shard(whole: &Graph, split: Split) -> Shard {
    let layout = Layout::new(whole, split.count);
    let mut pass = Pass {
        graph: Graph {
            values: whole.values.clone(),
            ropes: whole.ropes.clone(),
            kv: whole.kv.clone(),
            states: whole.states.clone(),
            logits: whole.logits,
            ..Graph::default()
        },
        held: Vec::new(),
        known: HashMap::new(),
        values: vec![Known::default(); whole.values.len()],
        whole,
        split,
        layout,
    };
    for (kv, heads) in pass.graph.kv.iter_mut().zip(&pass.layout.kv) {
        if let Some(heads) = heads {
            kv.n_kv_heads = heads.keys[split.index].len();
        }
    }
    for op in &whole.ops {
        pass.op(op);
    }
    if let Some(logits) = whole.logits {
        pass.full(logits);
    }
    for (index, rope) in whole.ropes.iter().enumerate() {
        let [factors, long_factors] =
            [rope.factors, rope.long_factors].map(|factors| factors.map(|factors| pass.all_of(factors)));
        pass.graph.ropes[index] = RopeDecl { factors, long_factors, ..rope.clone() };
    }
    pass.finish()
}

/// What a shard has of a value at some point of the graph.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The value as a whole.
    full: bool,
    /// Its own part is up to date.
    part: bool,
    /// Where the part is kept.
    part_id: Option<ValueId>,
}

struct Pass<'a> {
    whole: &'a Graph,
    split: Split,
    layout: Layout,
    graph: Graph,
    held: Vec<Held>,
    known: HashMap<Held, WeightId>,
    values: Vec<Known>,
}

impl Pass<'_> {
    fn push(&mut self, op: Op) {
        self.graph.ops.push(op);
    }

    fn op(&mut self, op: &Op) {
        let done = match op {
            Op::Embed { .. } => self.embed(op),
            Op::MatMul { .. } => self.matmul(op),
            Op::ExpertMatMul { .. } => self.expert_matmul(op),
            Op::ExpertSum { .. } => self.expert_sum(op),
            Op::FusedGatedActivation { .. } => self.fused_gated_activation(op),
            Op::RopeKvWrite { .. } | Op::Attention { .. } => self.attention(op),
            _ => self.elementwise(op).or_else(|| self.recurrent(op)),
        };
        if done.is_none() {
            self.replicated(op);
        }
    }

    /// An op that every shard computes as a whole.
    fn replicated(&mut self, op: &Op) {
        for id in op.reads() {
            self.full(id);
        }
        let mut op = op.clone();
        for weight in weights_mut(&mut op) {
            *weight = self.all_of(*weight);
        }
        if let Op::RopeKvWrite { kv_rows: Some((k, _)), .. } = op {
            self.wrote_full(k);
        }
        self.wrote_full(op.writes());
        self.push(op);
    }

    /// The whole of a value, gathered where it has to be.
    fn full(&mut self, id: ValueId) -> ValueId {
        let Known { full, part_id, .. } = self.values[id.0];
        if let (false, Some(x), Some(parts)) = (full, part_id, self.layout.values[id.0].clone()) {
            self.push(Op::Exchange(Exchange::Gather { x, parts, out: id }));
            self.values[id.0].full = true;
        }
        id
    }

    /// This shard's part of a value that is cut, taken out of the whole where it has to be.
    fn part(&mut self, id: ValueId) -> ValueId {
        let out = self.part_id(id);
        if !self.values[id.0].part {
            self.values[id.0].part = self.cut(id, id, out).is_some();
        }
        out
    }

    /// Whether there is a part of a value.
    fn has_part(&self, id: ValueId) -> bool {
        self.layout.values[id.0].is_some()
    }

    /// The columns of the whole `x` that are this shard's of `like`.
    fn cut(&mut self, x: ValueId, like: ValueId, out: ValueId) -> Option<()> {
        let (parts, range) = self.own(like)?;
        let (first, run, stride) = (range.start, range.len(), parts.run_len);
        self.push(Op::Columns { x, first, run, stride, out });
        Some(())
    }

    /// Where this shard's part of a value is kept.
    fn part_id(&mut self, id: ValueId) -> ValueId {
        if let Some(part) = self.values[id.0].part_id {
            return part;
        }
        let ValueDecl { name, rows, width } = self.whole.values[id.0].clone();
        let width = self.layout.values[id.0].as_ref().map_or(width, |parts| parts.width(self.split.index));
        self.graph.values.push(ValueDecl { name: format!("{name}.part"), width, rows });
        let part = ValueId(self.graph.values.len() - 1);
        self.values[id.0].part_id = Some(part);
        part
    }

    /// The parts of a value, and this shard's columns of a run.
    fn own(&self, id: ValueId) -> Option<(&Parts, std::ops::Range<usize>)> {
        let parts = self.layout.values[id.0].as_ref()?;
        Some((parts, parts.ranges[self.split.index].clone()))
    }

    fn wrote_full(&mut self, id: ValueId) {
        let known = &mut self.values[id.0];
        (known.full, known.part) = (true, false);
    }

    fn wrote_part(&mut self, id: ValueId) {
        let known = &mut self.values[id.0];
        (known.full, known.part) = (false, true);
    }

    /// The residual that an op adds to its part of `out`.
    fn residual(&mut self, add: ValueId, out: ValueId) -> Option<ValueId> {
        if self.layout.values[add.0] == self.layout.values[out.0] {
            return self.has_part(add).then(|| self.part(add));
        }
        let (x, part) = (self.full(add), self.part_id(out));
        self.cut(x, out, part)?;
        Some(part)
    }

    /// The rows of a weight that belong to columns of `like`, in each of `n_sections` (experts).
    fn rows_like(&mut self, weight: WeightId, like: ValueId, n_sections: usize) -> Option<WeightId> {
        let (parts, range) = self.own(like)?;
        let n_runs = len_of(&self.whole.weights[weight.0]) / parts.run_len.max(1);
        let whole_sections = n_runs.is_multiple_of(n_sections.max(1));
        let held = Held { weight, n_runs, run_len: parts.run_len, start: range.start, len: range.len() };
        (whole_sections && n_runs > 0).then(|| self.weight(held))
    }

    fn all_of(&mut self, weight: WeightId) -> WeightId {
        let len = len_of(&self.whole.weights[weight.0]);
        self.weight(Held { weight, n_runs: 1, run_len: len, start: 0, len })
    }

    fn weight(&mut self, held: Held) -> WeightId {
        *self.known.entry(held).or_insert_with(|| {
            self.held.push(held);
            WeightId(self.held.len() - 1)
        })
    }

    /// Whether a matrix is worth cutting.
    fn is_large(&self, weight: WeightId) -> bool {
        let decl = &self.whole.weights[weight.0];
        decl.n_rows * decl.n_cols >= self.split.least
    }

    fn embed(&mut self, op: &Op) -> Option<()> {
        let &Op::Embed { table, scale, out } = op else { return None };
        let n_rows = self.whole.weights[table.0].n_rows;
        let ranges = even(n_rows, self.split.count).filter(|_| self.is_large(table))?;
        let bounds = ranges.iter().map(|range| range.start).chain([n_rows]).collect();
        let own = &ranges[self.split.index];
        let held = Held { weight: table, n_runs: 1, run_len: n_rows, start: own.start, len: own.len() };
        let table = self.weight(held);
        self.push(Op::Exchange(Exchange::Embed { table, bounds, scale, out }));
        self.wrote_full(out);
        Some(())
    }

    fn matmul(&mut self, op: &Op) -> Option<()> {
        let &Op::MatMul { x, weight, bias, add, scale, out } = op else { return None };
        if !self.is_large(weight) || self.own(out).is_none() {
            return None;
        }
        let weight = self.rows_like(weight, out, 1)?;
        let bias = match bias {
            Some(bias) => Some(self.rows_like(bias, out, 1)?),
            None => None,
        };
        let x = self.full(x);
        let add = match add {
            Some(add) => Some(self.residual(add, out)?),
            None => None,
        };
        let part = self.part_id(out);
        self.push(Op::MatMul { x, weight, bias, add, scale, out: part });
        self.wrote_part(out);
        Some(())
    }

    fn expert_matmul(&mut self, op: &Op) -> Option<()> {
        let &Op::ExpertMatMul { x, selection, weight, bias, n_experts, out } = op else { return None };
        let n_used = self.whole.values[selection.0].width / 2;
        let (parts, _) = self.own(out)?;
        if !self.is_large(weight) || !parts.n_runs.is_multiple_of(n_used.max(1)) {
            return None;
        }
        let weight = self.rows_like(weight, out, n_experts)?;
        let bias = match bias {
            Some(bias) => Some(self.rows_like(bias, out, n_experts)?),
            None => None,
        };
        let (x, selection) = (self.full(x), self.full(selection));
        let part = self.part_id(out);
        self.push(Op::ExpertMatMul { x, selection, weight, bias, n_experts, out: part });
        self.wrote_part(out);
        Some(())
    }

    fn expert_sum(&mut self, op: &Op) -> Option<()> {
        let &Op::ExpertSum { x, selection, add, out } = op else { return None };
        let ((of_x, _), (of_out, _)) = (self.own(x)?, self.own(out)?);
        let n_used = self.whole.values[selection.0].width / 2;
        let alike = (of_x.n_runs, of_x.run_len) == (n_used, of_out.run_len) && of_x.ranges == of_out.ranges;
        if !alike || of_out.n_runs != 1 || !self.values[x.0].part {
            return None;
        }
        let selection = self.full(selection);
        let add = match add {
            Some(add) => Some(self.residual(add, out)?),
            None => None,
        };
        let (x, part) = (self.part(x), self.part_id(out));
        self.push(Op::ExpertSum { x, selection, add, out: part });
        self.wrote_part(out);
        Some(())
    }

    fn fused_gated_activation(&mut self, op: &Op) -> Option<()> {
        let &Op::FusedGatedActivation { x, activation, out, .. } = op else { return None };
        let ((of_x, range), (of_out, _)) = (self.own(x)?, self.own(out)?);
        if of_x.ranges != of_out.ranges || of_x.n_runs != 2 * of_out.n_runs || !self.values[x.0].part {
            return None;
        }
        let (x, part) = (self.part(x), self.part_id(out));
        self.push(Op::FusedGatedActivation { x, n_ff: range.len(), activation, out: part });
        self.wrote_part(out);
        Some(())
    }

    /// The heads that this shard has.
    fn attention(&mut self, op: &Op) -> Option<()> {
        let (kv, _) = attends(op)?;
        let Heads { queries, .. } = self.layout.kv[kv].as_ref()?;
        let n_heads = queries[self.split.index].len();
        match *op {
            Op::RopeKvWrite { q, kv_rows, rope, q_scale, .. } => {
                let part = self.part(q);
                let rows = kv_rows.map(|(k, v)| (self.part(k), self.part(v)));
                self.push(Op::RopeKvWrite { q: part, kv_rows: rows, n_heads, rope, q_scale, kv });
                kv_rows.iter().for_each(|(k, _)| self.wrote_part(*k));
                self.wrote_part(q);
            }
            Op::Attention { q, scale, window, softcap, causal, sinks, out, .. } => {
                let x = self.part(q);
                let sinks = sinks.map(|weight| {
                    let Heads { queries, .. } = self.layout.kv[kv].as_ref().expect("invariant: found above");
                    let (own, run_len) = (&queries[self.split.index], len_of(&self.whole.weights[weight.0]));
                    self.weight(Held { weight, n_runs: 1, run_len, start: own.start, len: own.len() })
                });
                let part = self.part_id(out);
                let op =
                    Op::Attention { q: x, kv, n_heads, scale, window, softcap, causal, sinks, out: part };
                self.push(op);
                self.wrote_part(out);
            }
            _ => return None,
        }
        Some(())
    }

    /// An op that goes on with parts where its operands are in parts.
    fn elementwise(&mut self, op: &Op) -> Option<()> {
        let ids = elementwise(op);
        let out = *ids.last()?;
        let sources = &ids[..ids.len() - 1];
        let alike = sources.iter().all(|id| self.layout.values[id.0] == self.layout.values[out.0]);
        let parted = sources.iter().any(|id| !self.values[id.0].full);
        if !alike || !parted || !sources.iter().all(|id| self.has_part(*id)) {
            return None;
        }
        let mut op = op.clone();
        match &mut op {
            Op::Norm { group, weight, bias, .. } => {
                let (parts, _) = self.own(out)?;
                let run_len = parts.run_len;
                // Of all shards, so that all decide alike.
                let mut ends = parts.ranges.iter().flat_map(|range| [range.start, range.end]);
                if parts.n_runs != 1 || !ends.all(|end| end.is_multiple_of(*group)) {
                    return None;
                }
                for vector in [weight, bias].into_iter().flatten() {
                    *vector = match len_of(&self.whole.weights[vector.0]) == run_len {
                        true => self.rows_like(*vector, out, 1)?,
                        false => self.all_of(*vector),
                    };
                }
            }
            Op::Combine { b: Operand::Vector(vector), .. }
            | Op::Lerp { mix: Operand::Vector(vector), .. } => {
                *vector = self.rows_like(*vector, out, 1)?;
            }
            _ => {}
        }
        for id in sources {
            self.part(*id);
        }
        self.part_id(out);
        for id in values_mut(&mut op) {
            *id = self.part_id(*id);
        }
        self.push(op);
        self.wrote_part(out);
        Some(())
    }

    /// Puts the weights into the whole graph's order and declares them.
    fn finish(self) -> Shard {
        let Pass { whole, mut graph, held: found, .. } = self;
        let mut held = found.clone();
        held.sort_unstable();
        let place = |id: WeightId| held.binary_search(&found[id.0]).map_or(id, WeightId);
        for op in &mut graph.ops {
            weights_mut(op).into_iter().for_each(|id| *id = place(*id));
        }
        for rope in &mut graph.ropes {
            let factors = [&mut rope.factors, &mut rope.long_factors];
            factors.into_iter().flatten().for_each(|id| *id = place(*id));
        }
        let decls = held.iter().map(|held| {
            let decl = whole.weights[held.weight.0].clone();
            let len = held.n_runs * held.len;
            match decl.kind {
                WeightKind::Vector => WeightDecl { n_cols: len, ..decl },
                WeightKind::Embedding | WeightKind::Matrix => WeightDecl { n_rows: len, ..decl },
            }
        });
        graph.weights = decls.collect();
        Shard { graph, held }
    }
}

/// Rows of a matrix, elements of a vector.
fn len_of(decl: &WeightDecl) -> usize {
    if decl.kind == WeightKind::Vector { decl.n_cols } else { decl.n_rows }
}
