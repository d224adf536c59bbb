//! Which bytes go into which buffer: weights cut by rows to what a binding may hold, intermediate values sharing
//! buffers by liveness.
//!
//! Principal functions: [`cut_rows`] and [`color_values`]. Numbers only; must not know wgpu.

use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Graph, Op, Rows, ValueId};

/// A run of rows of a weight matrix in a buffer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) first_row: u64,
    pub(super) n_rows: u64,
}

/// Cuts a matrix of `n_rows` rows of `row_bytes` into parts of at most `max_bytes`, each beginning at a multiple of
/// 4 bytes, which is what a queue write needs. The reserve of a word is for reads at odd bytes.
pub(super) fn cut_rows(name: &str, n_rows: u64, row_bytes: u64, max_bytes: u64) -> Result<Vec<Part>> {
    let step = match row_bytes % 4 {
        0 => 1,
        2 => 2,
        _ => 4,
    };
    let most = max_bytes.saturating_sub(8) / row_bytes.max(1);
    let fitting = if n_rows <= most { n_rows } else { most / step * step };
    if fitting == 0 {
        let message = format!(
            "a row of {name} takes {row_bytes} bytes, and this GPU binds at most {max_bytes} at once"
        );
        return Err(Error::new(ErrorCode::OutOfMemory, message));
    }
    let mut parts = Vec::new();
    let mut first_row = 0;
    while first_row < n_rows {
        let rows = fitting.min(n_rows - first_row);
        parts.push(Part { first_row, n_rows: rows });
        first_row += rows;
    }
    Ok(parts)
}

/// Buffers for the values of a graph: which one each value is in, and how large each is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Coloring {
    /// Slot of each value; `None` for a value no op touches.
    pub(super) slot: Vec<Option<usize>>,
    /// Bytes of each slot.
    pub(super) bytes: Vec<u64>,
}

/// Shares buffers between values that are never needed at once. WebGPU refuses a dispatch that binds one buffer both
/// read-only and writable, so a slot is freed only after the op that reads it last; where an op writes a value that
/// it reads, it is one value in one slot. Each of `groups` lists ops that may run as one, in the place of any of them,
/// and values besides theirs: what they touch is needed from the first op to the last.
pub(super) fn color_values(
    graph: &Graph,
    groups: &[(Vec<usize>, Vec<ValueId>)],
    n_batch: u64,
    n_outputs: u64,
) -> Coloring {
    // First and last op that touches each value.
    let mut uses: Vec<Option<(usize, usize)>> = vec![None; graph.values.len()];
    let single = (0..graph.ops.len()).map(|op| (vec![op], Vec::new()));
    for (ops, more) in single.chain(groups.iter().cloned()) {
        let (Some(first), Some(last)) = (ops.iter().copied().min(), ops.iter().copied().max()) else {
            continue;
        };
        for value in ops.iter().flat_map(|op| touched(&graph.ops[*op])).chain(more) {
            let (from, to) = uses[value.0].unwrap_or((first, last));
            uses[value.0] = Some((from.min(first), to.max(last)));
        }
    }
    // Where outputs are computed slice by slice, every slice is taken from the same rows.
    let taken = graph.ops.iter().filter_map(|op| match op {
        Op::TakeOutputs { x, .. } if n_outputs < n_batch => Some(*x),
        _ => None,
    });
    for value in taken.chain(graph.logits) {
        if let Some((_, last)) = &mut uses[value.0] {
            *last = graph.ops.len();
        }
    }
    let (mut begin, mut end) = (vec![Vec::new(); graph.ops.len()], vec![Vec::new(); graph.ops.len() + 1]);
    for (value, used) in uses.iter().enumerate() {
        if let Some((first, last)) = used {
            begin[*first].push(value);
            end[*last].push(value);
        }
    }
    let mut coloring = Coloring { slot: vec![None; graph.values.len()], bytes: Vec::new() };
    let mut free: Vec<usize> = Vec::new();
    for (begin, end) in begin.iter().zip(&end) {
        for value in begin {
            let decl = &graph.values[*value];
            let rows = match decl.rows {
                Rows::Tokens => n_batch,
                Rows::Outputs => n_outputs,
            };
            coloring.place(ValueId(*value), rows * decl.width as u64 * 4, &mut free);
        }
        free.extend(end.iter().filter_map(|value| coloring.slot[*value]));
    }
    coloring
}

/// The values that an op reads or writes.
fn touched(op: &Op) -> impl Iterator<Item = ValueId> {
    op.reads().into_iter().chain([op.writes()])
}

impl Coloring {
    /// The smallest free slot that is large enough, else the largest one, grown, else a new one.
    fn place(&mut self, value: ValueId, bytes: u64, free: &mut Vec<usize>) {
        let fits =
            free.iter().filter(|slot| self.bytes[**slot] >= bytes).min_by_key(|slot| self.bytes[**slot]);
        let chosen = fits.or_else(|| free.iter().max_by_key(|slot| self.bytes[**slot])).copied();
        let slot = chosen.unwrap_or_else(|| {
            self.bytes.push(0);
            self.bytes.len() - 1
        });
        free.retain(|other| *other != slot);
        self.bytes[slot] = self.bytes[slot].max(bytes);
        self.slot[value.0] = Some(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::graph::ValueDecl;

    #[test]
    fn parts_begin_at_whole_words_and_cover_all_rows() {
        for (n_rows, row_bytes, max_bytes) in
            [(10, 18, 100), (7, 34, 1000), (5, 20, 60), (1, 210, 220), (9, 17, 90)]
        {
            let parts = cut_rows("w", n_rows, row_bytes, max_bytes).unwrap();
            let mut next = 0;
            for part in &parts {
                assert_eq!(part.first_row, next);
                assert_eq!(part.first_row * row_bytes % 4, 0);
                assert!(part.n_rows * row_bytes <= max_bytes);
                next += part.n_rows;
            }
            assert_eq!(next, n_rows);
        }
        let error = cut_rows("blk.0.w", 4, 4096, 100).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert!(error.message().contains("blk.0.w"));
    }

    #[test]
    fn values_alive_together_never_share() {
        // A chain a -> b -> c -> d: b and d may share, neighbours may not.
        let value = |width| ValueDecl { name: String::new(), width, rows: Rows::Tokens };
        let take = |x, out| Op::Map { x: ValueId(x), f: crate::model::graph::Unary::Tanh, out: ValueId(out) };
        let mut graph = Graph {
            values: vec![value(4), value(8), value(2), value(16)],
            ops: vec![take(0, 1), take(1, 2), take(2, 3)],
            logits: Some(ValueId(3)),
            ..Graph::default()
        };
        let coloring = color_values(&graph, &[], 10, 1);
        let slot = |index: usize| coloring.slot[index].unwrap();
        assert!(slot(0) != slot(1) && slot(1) != slot(2) && slot(2) != slot(3));
        assert_eq!(coloring.bytes.len(), 2);
        assert_eq!(coloring.bytes[slot(3)], 16 * 10 * 4);
        // Where two ops may run as one, all that they touch is alive together.
        let coloring = color_values(&graph, &[(vec![1, 2], Vec::new())], 10, 1);
        let slot = |index: usize| coloring.slot[index].unwrap();
        assert!(slot(1) != slot(2) && slot(2) != slot(3) && slot(1) != slot(3));
        // What one of them may write besides is as well.
        let coloring = color_values(&graph, &[(vec![0], vec![ValueId(3)])], 10, 1);
        let slots: Vec<usize> = coloring.slot.iter().flatten().copied().collect();
        assert!(slots[..3].iter().all(|slot| *slot != slots[3]), "{slots:?}");
        // What outputs are taken from is read again for the next slice of them, and only then.
        graph.ops[0] = Op::TakeOutputs { x: ValueId(0), out: ValueId(1) };
        let coloring = color_values(&graph, &[], 10, 1);
        assert!((1..4).all(|index| coloring.slot[index] != coloring.slot[0]));
        assert_eq!(color_values(&graph, &[], 10, 10).bytes.len(), 2);
    }
}
