//! What a shard tells the others in the middle of a step.
//!
//! Principal trait: [`Link`], the way to the other shards: whatever carries the parts, the ops are the same. Must not
//! know how a graph was cut.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::{CpuBackend, CpuShard};
use crate::backend::Outputs;
use crate::bail;
use crate::error::Result;
use crate::model::graph::{Graph, Op};
use crate::model::shard::{Exchange, Parts};

/// A step that all shards run, as [`crate::backend::Backend::forward`] has it.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// The position of the first.
    pub pos: usize,
    /// What is asked for.
    pub outputs: Outputs,
    /// The sequence that it belongs to.
    pub sequence: usize,
    /// Whether it is rotated as for long texts.
    pub long_rope: bool,
}

/// What is done while others do their part.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The way to the other shards. Rounds of sending and receiving take turns, and all shards have the same rounds.
pub trait Link {
    /// The shard that is asked for a step calls this before it begins: the others run the same step.
    /// # Errors
    /// `WorkerFailed` when a shard is gone.
    fn begin(&mut self, step: Step<'_>) -> Result<()> {
        let _ = step;
        Ok(())
    }

    /// The step that began is done.
    fn end(&mut self) {}

    /// Asked by the leader before each step at `pos`: another number of shards, where `graph` would run faster on so many.
    fn recount<'a>(&'a mut self, graph: &'a Graph, pos: usize) -> Option<Waiting<'a, Option<usize>>> {
        let _ = (graph, pos);
        None
    }

    /// Fills the leader's `shard`, which has been cut for `count` shards, and as many others as that makes.
    fn refill<'a>(&'a mut self, shard: &'a mut CpuShard, count: usize) -> Waiting<'a, Result<()>> {
        let _ = (shard, count);
        unreachable!("invariant: only who recounts is asked")
    }

    /// This shard's index.
    fn index(&self) -> usize;

    /// Puts new shards in the place of the others, of which one is gone: with all weights, and nothing of any text.
    /// `None` where that cannot be done from here.
    fn revive(&mut self) -> Option<Waiting<'_, Result<()>>> {
        None
    }

    /// Hands the own part to all others.
    /// # Errors
    /// As [`Link::begin`].
    fn send(&mut self, part: &[f32]) -> Result<()>;

    /// Ready once all others' parts of the round are there: then `take` has had each of them with its shard's index.
    /// # Errors
    /// As [`Link::begin`].
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Poll<Result<()>>;
}

/// The result of what never waits for other tasks: a step without a link, or with one that blocks its thread.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("invariant: only links between tasks wait, and those are awaited"),
    }
}

/// Whether the exchanges of `graph` are those of the shard at the end of `link`.
/// # Errors
/// `Internal`
pub(super) fn check(graph: &Graph, link: Option<&dyn Link>) -> Result<()> {
    for op in &graph.ops {
        let Op::Exchange(exchange) = op else { continue };
        let fits = link.is_some_and(|link| match exchange {
            Exchange::Gather { x, parts, .. } => {
                link.index() < parts.ranges.len() && graph.values[x.0].width == parts.width(link.index())
            }
            Exchange::Embed { table, bounds, .. } => {
                let own = bounds.get(link.index()).zip(bounds.get(link.index() + 1));
                own.is_some_and(|(first, end)| graph.weights[table.0].n_rows == end - first)
            }
        });
        if !fits {
            bail!(Internal, "an exchange that is not this shard's: {exchange:?}");
        }
    }
    Ok(())
}

impl CpuBackend {
    /// Runs an exchange that writes `n_rows` rows.
    pub(super) async fn exchange(&mut self, index: usize, tokens: &[u32], n_rows: usize) -> Result<()> {
        let CpuBackend { plan, kernels, workspace, link, .. } = self;
        let Op::Exchange(exchange) = &plan.graph.ops[index] else {
            unreachable!("invariant: called for exchanges")
        };
        let link = link.as_mut().expect("invariant: plans with exchanges have a link");
        let own = link.index();
        let width = plan.graph.values[plan.graph.ops[index].writes().0].width;
        let out_id = plan.graph.ops[index].writes();
        match exchange {
            Exchange::Gather { x, parts, .. } => {
                let part = workspace.take(*x);
                let sent = &part[..n_rows * parts.width(own)];
                let result = link.send(sent);
                let mut out = workspace.take(out_id);
                place(parts, own, sent, &mut out[..n_rows * width]);
                workspace.put(out_id, out);
                workspace.put(*x, part);
                result?;
            }
            Exchange::Embed { table, bounds, scale, .. } => {
                // The own rows at the front of the buffer, then each where it belongs, from the last.
                let mut out = workspace.take(out_id);
                let mut n_own = 0;
                for token in tokens.iter().filter_map(|token| row_in(bounds, own, *token)) {
                    kernels.embed(*table, &[token], *scale, &mut out[n_own * width..][..width]);
                    n_own += 1;
                }
                let result = link.send(&out[..n_own * width]);
                for (row, token) in tokens.iter().enumerate().rev() {
                    if row_in(bounds, own, *token).is_some() {
                        n_own -= 1;
                        out.copy_within(n_own * width..(n_own + 1) * width, row * width);
                    }
                }
                workspace.put(out_id, out);
                result?;
            }
        }
        poll_fn(|context| {
            let mut out = workspace.take(out_id);
            let done = link.poll_receive(context, &mut |shard, part| match exchange {
                Exchange::Gather { parts, .. } => place(parts, shard, part, &mut out[..n_rows * width]),
                Exchange::Embed { bounds, .. } => {
                    let rows = out.chunks_exact_mut(width).zip(tokens);
                    let theirs = rows.filter(|(_, token)| row_in(bounds, shard, **token).is_some());
                    for ((row, _), part) in theirs.zip(part.chunks_exact(width)) {
                        row.copy_from_slice(part);
                    }
                }
            });
            workspace.put(out_id, out);
            done
        })
        .await
    }
}

/// The row of shard `shard`'s own table that a token gets, if it is there.
fn row_in(bounds: &[usize], shard: usize, token: u32) -> Option<u32> {
    let n_rows = bounds.last().copied().unwrap_or(0);
    let row = super::row_of(token, n_rows);
    (bounds[shard]..bounds[shard + 1]).contains(&row).then(|| (row - bounds[shard]) as u32)
}

/// Copies shard `shard`'s columns, `[n_rows, n_runs, own columns]`, to where they belong in `out`.
fn place(parts: &Parts, shard: usize, part: &[f32], out: &mut [f32]) {
    let range = parts.ranges[shard].clone();
    for (part, run) in part.chunks_exact(range.len()).zip(out.chunks_exact_mut(parts.run_len)) {
        run[range.clone()].copy_from_slice(part);
    }
}
