//! Which bytes of a model's weights a shard holds.
//!
//! Principal type: [`Route`]. Must not know how bytes travel.

use std::ops::Range;

use crate::backend::ModelPlan;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::WeightKind;
use crate::model::shard::{Held, Shard, Split, shard};
use crate::quant;

/// Where a part of a weight's bytes goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The shard's index of the weight.
    pub(super) weight: usize,
    /// In bytes: runs of `run` bytes, of each of which `start..start + len` goes.
    run: u64,
    start: u64,
    len: u64,
}

/// The plan of one shard of `plan`, and what it holds: the whole's index of a weight, and the bytes of it.
/// # Errors
/// `UnsupportedType` for a vector that is cut within a block of its format.
pub(super) fn part_of(plan: &ModelPlan, split: Split) -> Result<(ModelPlan, Vec<(usize, Route)>)> {
    let Shard { graph, held } = shard(&plan.graph, split);
    let routes = held.iter().enumerate().map(|(weight, held)| {
        let route = route(plan, weight, held)?;
        Ok((held.weight.0, route))
    });
    let routes = routes.collect::<Result<_>>()?;
    let dtypes = held.iter().map(|held| plan.dtypes[held.weight.0]).collect();
    Ok((ModelPlan { graph, dtypes, ..*plan }, routes))
}

/// Where the bytes of `held` stand in the weight that it is a part of.
fn route(plan: &ModelPlan, weight: usize, held: &Held) -> Result<Route> {
    let decl = &plan.graph.weights[held.weight.0];
    let format = quant::format(plan.dtypes[held.weight.0]);
    let bytes = |rows: usize| match decl.kind {
        WeightKind::Vector => rows
            .is_multiple_of(format.block_len)
            .then(|| (rows / format.block_len) as u64 * format.block_bytes as u64),
        WeightKind::Embedding | WeightKind::Matrix => {
            Some(rows as u64 * (decl.n_cols / format.block_len) as u64 * format.block_bytes as u64)
        }
    };
    match (bytes(held.run_len), bytes(held.start), bytes(held.len)) {
        (Some(run), Some(start), Some(len)) => Ok(Route { weight, run, start, len }),
        _ => {
            let message = "a vector of this format cannot be spread over threads; use one thread";
            Err(Error::new(ErrorCode::UnsupportedType, message).at(&decl.name))
        }
    }
}

impl Route {
    /// The smallest range that holds all bytes of `range` of the whole weight that go this way.
    pub(super) fn wants(&self, range: Range<u64>) -> Option<Range<u64>> {
        let Route { run, start, len, .. } = *self;
        let runs = range.start / run.max(1)..range.end.div_ceil(run.max(1));
        let clip = |index: u64| {
            let first = index * run + start;
            (first.max(range.start), (first + len).min(range.end))
        };
        let first = runs.clone().map(clip).find(|(from, to)| from < to)?;
        let last = runs.rev().map(clip).find(|(from, to)| from < to)?;
        Some(first.0..last.1)
    }

    /// What of a piece of the whole weight at `offset` goes this way: `(offset on arrival, bytes)`.
    pub(super) fn take<'a>(&self, offset: u64, bytes: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
        let Route { run, start, len, .. } = *self;
        let end = offset + bytes.len() as u64;
        (offset / run.max(1)..end.div_ceil(run.max(1))).filter_map(move |index| {
            let first = index * run + start;
            let (from, to) = (first.max(offset), (first + len).min(end));
            let taken = (from < to).then(|| &bytes[(from - offset) as usize..(to - offset) as usize])?;
            Some((index * len + from - first, taken))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_arrive_in_order_however_a_weight_is_cut_into_pieces() {
        // Of each run of five bytes, the third and fourth.
        let route = Route { weight: 0, run: 5, start: 2, len: 2 };
        let whole: Vec<u8> = (0..20).collect();
        for piece_len in 1..=20 {
            let mut found = Vec::new();
            for (index, piece) in whole.chunks(piece_len).enumerate() {
                for (offset, bytes) in route.take((index * piece_len) as u64, piece) {
                    assert_eq!(offset, found.len() as u64);
                    found.extend_from_slice(bytes);
                }
            }
            assert_eq!(found, [2, 3, 7, 8, 12, 13, 17, 18], "pieces of {piece_len}");
        }
    }

    #[test]
    fn what_is_wanted_is_what_is_taken() {
        let route = Route { weight: 0, run: 5, start: 2, len: 2 };
        let whole: Vec<u8> = (0..20).collect();
        for start in 0..20 {
            for end in start..=20 {
                let taken = route.take(start, &whole[start as usize..end as usize]);
                let taken: Vec<u8> = taken.flat_map(|(_, bytes)| bytes.to_vec()).collect();
                let ends = taken.first().zip(taken.last());
                let expected = ends.map(|(first, last)| u64::from(*first)..u64::from(*last) + 1);
                assert_eq!(route.wants(start..end), expected, "{start}..{end}");
            }
        }
    }
}
