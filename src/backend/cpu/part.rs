//! One shard of a model, filled and changed as if it were the whole: what each worker of a pool runs.
//!
//! Principal type: [`CpuShard`]. It is handed all of every weight, or only what [`CpuShard::wants`], and keeps its own
//! rows. Must not know how the parts of values travel.

use std::ops::Range;

use super::exchange::{Link, Step};
use super::routes::{Route, part_of};
use super::{CpuBackend, CpuMode};
use crate::backend::{Backend, Counters, ModelPlan, Outputs, Profile, Sequences};
use crate::bail;
use crate::error::{ErrorCode, Result};
use crate::model::graph::Graph;
use crate::model::shard::Split;
use crate::tensor::DType;

/// A shard, with the whole model's graph, weights and steps at its surface.
pub struct CpuShard {
    own: CpuBackend,
    mode: CpuMode,
    split: Split,
    /// Of each of the whole's weights what goes where in the own ones.
    routes: Vec<Vec<Route>>,
    /// The whole graph's and the formats of its weights.
    plan: ModelPlan,
    long_rope: bool,
    /// Token of each position that the caches hold: all that is needed to fill them again. Of a text that new shards know
    /// nothing of it is empty.
    log: Sequences<Vec<u32>>,
}

/// How often a step is begun again because a shard was gone.
const TRIES: usize = 2;

impl CpuShard {
    /// Allocates everything but the weights, as [`CpuBackend::new`], for shard `split` of `plan`.
    /// # Errors
    /// As [`CpuBackend::new`]; `UnsupportedType` where a weight cannot be cut so.
    pub fn new(plan: ModelPlan, mode: CpuMode, split: Split, link: Box<dyn Link>) -> Result<CpuShard> {
        super::plan::check(&plan)?;
        let (own, routes) = divide(&plan, split)?;
        let own = CpuBackend::with_link(own, mode, Some(link))?;
        Ok(CpuShard {
            own,
            mode,
            split,
            routes,
            plan,
            long_rope: false,
            log: Sequences::new(vec![Vec::new()]),
        })
    }

    fn link(&mut self) -> &mut dyn Link {
        self.own.link.as_deref_mut().expect("invariant: a shard has a link")
    }

    async fn step(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        let (sequence, long_rope) = (self.log.selected(), self.long_rope);
        self.link().begin(Step { tokens, pos, outputs, sequence, long_rope })?;
        let result = self.own.forward(tokens, pos, outputs).await;
        self.link().end();
        result
    }

    /// Another number of shards, where that is faster and the text so far can be computed again.
    async fn recount(&mut self, pos: usize) -> Option<usize> {
        let CpuShard { own, plan, log, .. } = self;
        let link = own.link.as_deref_mut().filter(|_| pos <= log.len())?;
        link.recount(&plan.graph, pos)?.await
    }

    /// Becomes the first of `count` shards, which know nothing of the text.
    async fn resplit(&mut self, count: usize) -> Result<()> {
        let split = Split { count, ..self.split };
        let (plan, routes) = divide(&self.plan, split)?;
        // There may not be room for the weights as they were and as they will be.
        self.own.release()?;
        let (link, counters) = (self.own.link.take(), self.own.counters);
        self.own = CpuBackend::with_link(plan, self.mode, link)?;
        self.own.counters = counters;
        self.own.select(self.log.selected());
        (self.split, self.routes) = (split, routes);
        let mut link = self.own.link.take().expect("invariant: a shard has a link");
        let filled = link.refill(self, count).await;
        self.own.link = Some(link);
        filled?;
        self.finish_upload().await
    }

    /// The shards will be new: of the texts only the selected one is computed again.
    fn forget_others(&mut self) {
        let own = std::mem::take(&mut *self.log);
        self.log.all_mut().iter_mut().for_each(Vec::clear);
        *self.log = own;
    }

    /// A step after all before it, for shards that know nothing of the text.
    async fn step_again(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        let Some(before) = self.log.get(..pos).map(<[u32]>::to_vec) else {
            bail!(Internal, "a step at {pos}, of which only {} tokens are known", self.log.len());
        };
        for (index, chunk) in before.chunks(self.plan.n_batch).enumerate() {
            self.step(chunk, index * self.plan.n_batch, Outputs::None).await?;
        }
        self.step(tokens, pos, outputs).await
    }

    /// The smallest range that holds all bytes of `range` of weight `weight` that this shard keeps.
    pub fn wants(&self, weight: usize, range: Range<u64>) -> Range<u64> {
        let routes = self.routes.get(weight).into_iter().flatten();
        let wanted = routes.filter_map(|route| route.wants(range.clone()));
        let joined = wanted.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        joined.unwrap_or(range.start..range.start)
    }
}

fn divide(plan: &ModelPlan, split: Split) -> Result<(ModelPlan, Vec<Vec<Route>>)> {
    let (own, held) = part_of(plan, split)?;
    let mut routes = vec![Vec::new(); plan.graph.weights.len()];
    held.into_iter().for_each(|(weight, route)| routes[weight].push(route));
    Ok((own, routes))
}

impl Backend for CpuShard {
    fn upload(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(routes) = self.routes.get(weight) else {
            bail!(Internal, "weight {weight} of {}", self.routes.len());
        };
        for route in routes {
            for (offset, bytes) in route.take(offset, bytes) {
                self.own.upload(route.weight, offset, bytes)?;
            }
        }
        Ok(())
    }

    async fn finish_upload(&mut self) -> Result<()> {
        self.own.finish_upload().await?;
        self.own.use_long_rope(self.long_rope);
        Ok(())
    }

    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        // What is refused here is refused before anybody else begins.
        self.own.check_step(tokens, pos)?;
        self.own.kernels.reserve(pos + tokens.len())?;
        let mut order = self.own.past.order;
        order.begin(pos, pos + tokens.len())?;
        let mut result = match self.recount(pos).await {
            None => self.step(tokens, pos, outputs).await,
            Some(count) => {
                self.forget_others();
                let before = self.split.count;
                let mut resplit = self.resplit(count).await;
                if resplit.is_err() {
                    resplit = self.resplit(before).await;
                }
                resplit?;
                self.step_again(tokens, pos, outputs).await
            }
        };
        for _ in 0..TRIES {
            if !result.as_ref().is_err_and(|error| error.code() == ErrorCode::WorkerFailed) {
                break;
            }
            self.forget_others();
            let Some(revived) = self.link().revive() else { break };
            result = match revived.await {
                Ok(()) => self.step_again(tokens, pos, outputs).await,
                Err(error) => Err(error),
            };
        }
        if result.is_ok() {
            self.log.truncate(pos);
            self.log.extend_from_slice(tokens);
        }
        result
    }

    fn select(&mut self, sequence: usize) {
        self.own.select(sequence);
        self.log.select(sequence, Vec::new);
    }

    fn earliest(&self) -> usize {
        if self.log.is_empty() { usize::MAX } else { self.own.earliest() }
    }

    fn reuse(&mut self, logits: Vec<f32>) {
        self.own.reuse(logits);
    }

    async fn replace_graph(&mut self, graph: Graph, dtypes: Vec<DType>, n_kept: usize) -> Result<()> {
        let plan = ModelPlan { graph, dtypes, ..self.plan };
        super::plan::check(&plan)?;
        let (own, routes) = divide(&plan, self.split)?;
        let n_own = routes.iter().take(n_kept).map(Vec::len).sum();
        self.own.replace_graph(own.graph, own.dtypes, n_own).await?;
        (self.plan, self.routes, self.long_rope) = (plan, routes, false);
        self.log.all_mut().iter_mut().for_each(Vec::clear);
        Ok(())
    }

    fn use_long_rope(&mut self, long: bool) {
        if long != self.long_rope {
            self.long_rope = long;
            self.own.use_long_rope(long);
        }
    }

    fn profile(&mut self, begin: bool) -> Option<Profile> {
        self.own.profile(begin)
    }

    fn counters(&self) -> Counters {
        self.own.counters()
    }

    fn memory_bytes(&self) -> u64 {
        self.own.memory_bytes()
    }
}
