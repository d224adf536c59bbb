//! Whether a model that runs on several workers would run faster on fewer, or on more again.
//!
//! Principal type: [`Watch`]. What changes the number is `pool.rs`. Must not know requests.

use std::rc::Rc;

use web_time::Instant;

use super::crew;
use super::pool::Team;
use crate::error::Result;
use crate::model::graph::Graph;
use crate::model::shard::{Pace, Work};

/// How long a number of workers is kept before more are tried again, in seconds; doubled with each try that is for nothing.
const KEEP_S: f64 = 60.0;

/// Keeps account of the tokens of a model whose number of workers was not asked for.
pub(super) struct Watch {
    pace: Pace,
    /// Fewest workers that have the memory.
    least: usize,
    /// What it took to fill the workers with their weights.
    load_ms: f64,
    /// When the number was last thought about, and for how long that holds.
    since: Instant,
    keep_s: f64,
    /// When the token that is computed began.
    began: Option<Instant>,
}

impl Watch {
    /// Of a model whose products take one worker `alone_ms` for a token.
    pub(super) fn new(alone_ms: f64, least: usize, load_ms: f64) -> Watch {
        let pace = Pace::new(alone_ms);
        Watch { pace, least, load_ms, since: Instant::now(), keep_s: KEEP_S, began: None }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, n_tokens: usize) {
        self.began = (n_tokens == 1).then(Instant::now);
    }

    /// It is done, on `count` workers.
    pub(super) fn end(&mut self, count: usize) {
        if let Some(began) = self.began.take().filter(|_| count > 1) {
            self.pace.took(began.elapsed().as_secs_f64() * 1e3);
        }
    }

    /// Whether `count` workers are worth a look before a step at `pos`: they lose time, or a text begins some time after
    /// there were made fewer of them.
    pub(super) fn is_due(&self, count: usize, pos: usize) -> bool {
        let is_old = || self.since.elapsed().as_secs_f64() > self.keep_s;
        count > self.least.max(1) && self.pace.is_lost(self.load_ms, pos)
            || count < crew::most() && pos == 0 && is_old()
    }

    /// Nothing is changed.
    fn keep(&mut self) {
        self.pace.keep();
        (self.since, self.keep_s) = (Instant::now(), 2.0 * self.keep_s);
    }
}

/// Another number of workers that is faster for `graph` now than those of `team`.
pub(super) async fn look(team: &Rc<Team>, graph: &Graph) -> Result<Option<usize>> {
    let (count, most) = (team.count(), crew::most());
    let work = Work::new(graph, team.watch().as_ref().map_or(1, |watch| watch.least));
    let result = async {
        let trial = if count == most { Rc::clone(team) } else { Team::start(most).await? };
        Ok(work.best(&crew::measure(&trial, most, &work).await?))
    };
    let result: Result<usize> = result.await;
    if let Some(watch) = team.watch().as_mut() {
        match result {
            Ok(best) if best != count => {
                watch.pace = Pace::new(crew::alone_ms(&work));
                watch.since = Instant::now();
            }
            _ => watch.keep(),
        }
    }
    Ok(Some(result?).filter(|best| *best != count))
}
