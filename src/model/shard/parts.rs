//! Which columns of each value a shard computes, and which heads of each cache it holds.
//!
//! Principal type: [`Layout`]. Values that elementwise ops connect are cut alike, so that what follows a product needs
//! no exchange. Must not know weights' places or buffers.

use std::ops::Range;

use super::recurrent;
use crate::model::graph::{Graph, KvDecl, Op, Operand, ValueId};

/// How the columns of a value are spread over shards: the value is a number of equal runs (experts; gates and
/// multipliers), and every shard has the same range of each of them. Ranges may overlap where few key heads serve many
/// query heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Equal runs of columns.
    pub n_runs: usize,
    /// Columns of a run.
    pub run_len: usize,
    /// Of each shard, its columns of every run; together all of them, none empty.
    pub ranges: Vec<Range<usize>>,
}

impl Parts {
    /// Columns that shard `index` has.
    pub fn width(&self, index: usize) -> usize {
        self.n_runs * self.ranges[index].len()
    }

    /// The same ranges of heads that are `factor` wide.
    pub(super) fn of_heads(heads: &[Range<usize>], n_heads: usize, factor: usize) -> Parts {
        let ranges = heads.iter().map(|range| range.start * factor..range.end * factor).collect();
        Parts { n_runs: 1, run_len: n_heads * factor, ranges }
    }
}

/// The heads of one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// Query heads of each shard, of all.
    pub(super) queries: Vec<Range<usize>>,
    /// Key/value heads that those read.
    pub(super) keys: Vec<Range<usize>>,
    n_heads: usize,
}

/// What of a graph each shard has.
pub(super) struct Layout {
    /// Of each value, how it would be cut; `None` for those too narrow.
    pub(super) values: Vec<Option<Parts>>,
    /// Of each cache; `None` for those that every shard holds as a whole.
    pub(super) kv: Vec<Option<Heads>>,
}

impl Layout {
    pub(super) fn new(graph: &Graph, count: usize) -> Layout {
        let mut layout = Layout { values: vec![None; graph.values.len()], kv: vec![None; graph.kv.len()] };
        if count < 2 {
            return layout;
        }
        layout.cut_heads(graph, count);
        layout.cut_runs(graph, count);
        for op in &graph.ops {
            for (id, parts) in recurrent::parts(graph, op, count).unwrap_or_default() {
                layout.values[id.0].get_or_insert(parts);
            }
        }
        while layout.spread(graph) {}
        for (parts, decl) in layout.values.iter_mut().zip(&graph.values) {
            if parts.is_none() {
                let cut = |ranges| Parts { n_runs: 1, run_len: decl.width, ranges };
                *parts = even(decl.width, count).map(cut);
            }
        }
        layout
    }

    /// Queries, keys, values and what attention makes of them, by heads.
    fn cut_heads(&mut self, graph: &Graph, count: usize) {
        let mut whole = vec![false; graph.kv.len()];
        for op in &graph.ops {
            let Some((kv, n_heads)) = attends(op) else { continue };
            let KvDecl { n_kv_heads, head_dim, .. } = graph.kv[kv];
            let heads = match self.kv[kv].take() {
                None => split_heads(n_heads, n_kv_heads, count),
                heads => heads.filter(|heads| heads.n_heads == n_heads),
            };
            let Some(heads) = heads.filter(|_| !whole[kv]) else {
                whole[kv] = true;
                continue;
            };
            let queries = Parts::of_heads(&heads.queries, n_heads, head_dim);
            let keys = Parts::of_heads(&heads.keys, n_kv_heads, head_dim);
            let cut: Vec<(ValueId, &Parts)> = match *op {
                Op::RopeKvWrite { q, kv_rows, .. } => {
                    let rows = kv_rows.iter().flat_map(|(k, v)| [(*k, &keys), (*v, &keys)]);
                    rows.chain([(q, &queries)]).collect()
                }
                Op::Attention { q, out, .. } => vec![(q, &queries), (out, &queries)],
                _ => Vec::new(),
            };
            let fits = cut.into_iter().all(|(id, parts)| {
                let found = self.values[id.0].get_or_insert_with(|| parts.clone());
                found == parts
            });
            whole[kv] = !fits;
            self.kv[kv] = Some(heads).filter(|_| fits);
        }
    }

    /// Values of several runs.
    fn cut_runs(&mut self, graph: &Graph, count: usize) {
        for op in &graph.ops {
            let (id, run_len) = match *op {
                Op::FusedGatedActivation { x, n_ff, .. } => (x, n_ff),
                Op::ExpertMatMul { weight, n_experts, out, .. } => {
                    (out, graph.weights[weight.0].n_rows / n_experts)
                }
                _ => continue,
            };
            // The activation behind a product comes later, and knows of more runs.
            let n_runs = graph.values[id.0].width / run_len.max(1);
            let cut = |ranges| Parts { n_runs, run_len, ranges };
            self.values[id.0] = even(run_len, count).map(cut);
            if let Op::FusedGatedActivation { out, .. } = *op {
                let cut = |ranges| Parts { n_runs: n_runs / 2, run_len, ranges };
                self.values[out.0] = even(run_len, count).map(cut);
            }
        }
    }

    /// Cuts what stands in one elementwise op with a value that is cut in the same way; whether there was any.
    fn spread(&mut self, graph: &Graph) -> bool {
        let mut any = false;
        for op in &graph.ops {
            let alike = elementwise(op);
            let Some(parts) = alike.iter().find_map(|id| self.values[id.0].clone()) else { continue };
            for id in alike.iter().filter(|id| graph.values[id.0].width == parts.n_runs * parts.run_len) {
                any |= self.values[id.0].is_none();
                self.values[id.0].get_or_insert_with(|| parts.clone());
            }
        }
        any
    }
}

/// The cache that an op uses, and its query heads.
pub(super) fn attends(op: &Op) -> Option<(usize, usize)> {
    match *op {
        Op::RopeKvWrite { kv, n_heads, .. } | Op::Attention { kv, n_heads, .. } => Some((kv, n_heads)),
        _ => None,
    }
}

/// The values, equally wide, of which an op computes each column from the same column of the others; none for other
/// ops. The last is what is written.
pub(super) fn elementwise(op: &Op) -> Vec<ValueId> {
    let operand = |operand: Operand| match operand {
        Operand::Value(value) => Some(value),
        Operand::Vector(_) => None,
    };
    match *op {
        Op::Norm { x, add, out, .. } => [Some(x), add, Some(out)].into_iter().flatten().collect(),
        Op::Map { x, out, .. } => vec![x, out],
        Op::Combine { a, b, out, .. } => [Some(a), operand(b), Some(out)].into_iter().flatten().collect(),
        Op::Lerp { x, other, mix, out } => {
            [Some(x), Some(other), operand(mix), Some(out)].into_iter().flatten().collect()
        }
        Op::GatedActivation { gate, up, out, .. } => vec![gate, up, out],
        _ => Vec::new(),
    }
}

/// `len` columns over `count` shards in whole panels of four where there are enough; `None` where a shard would have
/// nothing, or all.
pub(super) fn even(len: usize, count: usize) -> Option<Vec<Range<usize>>> {
    let unit = if len >= 4 * count { 4 } else { 1 };
    let n_units = len.div_ceil(unit);
    let cut = |index: usize| (index * n_units / count * unit).min(len);
    (len >= count && count > 1).then(|| (0..count).map(|index| cut(index)..cut(index + 1)).collect())
}

/// Heads over shards: whole groups (a key/value head with the query heads that read it) where there are enough of them,
/// else groups shared by several shards, each of which holds the keys and values. `None` where there are too few heads.
pub(super) fn split_heads(n_heads: usize, n_kv_heads: usize, count: usize) -> Option<Heads> {
    let group = n_heads / n_kv_heads.max(1);
    let share = |of: usize, among: usize, index: usize| index * of / among..(index + 1) * of / among;
    let (mut queries, mut keys) = (Vec::new(), Vec::new());
    if n_kv_heads >= count {
        for index in 0..count {
            let held = share(n_kv_heads, count, index);
            queries.push(held.start * group..held.end * group);
            keys.push(held);
        }
    } else {
        for head in 0..n_kv_heads {
            let shards = share(count, n_kv_heads, head).len();
            for index in 0..shards {
                let of_group = share(group, shards, index);
                queries.push(head * group + of_group.start..head * group + of_group.end);
                keys.push(head..head + 1);
            }
        }
    }
    let fits = queries.len() == count && queries.iter().all(|range| !range.is_empty());
    fits.then_some(Heads { queries, keys, n_heads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut_in_panels_and_nobody_goes_without() {
        assert_eq!(even(576, 2), Some(vec![0..288, 288..576]));
        assert_eq!(even(30, 3), Some(vec![0..8, 8..20, 20..30]));
        assert_eq!(even(5, 3), Some(vec![0..1, 1..3, 3..5]));
        assert_eq!(even(2, 3), None);
    }

    #[test]
    fn heads_go_with_their_keys() {
        // SmolLM2-135M: nine heads in three groups.
        let two = split_heads(9, 3, 2).unwrap();
        assert_eq!((two.queries, two.keys), (vec![0..3, 3..9], vec![0..1, 1..3]));
        // With more shards than groups, a group is shared and its keys are held twice.
        let four = split_heads(9, 3, 4).unwrap();
        assert_eq!(four.queries, [0..3, 3..6, 6..7, 7..9]);
        assert_eq!(four.keys, [0..1, 1..2, 2..3, 2..3]);
        assert_eq!(split_heads(8, 1, 3).unwrap().queries, [0..2, 2..5, 5..8]);
        assert_eq!(split_heads(2, 1, 3), None);
        assert_eq!(split_heads(3, 3, 4), None);
    }
}
