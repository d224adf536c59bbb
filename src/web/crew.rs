//! The other workers that a model gets while it loads: how many, and what they are told.
//!
//! Principal type: [`Crew`]. Must not know backends.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;

use js_sys::Array;
use wasm_bindgen::JsValue;

use super::files::Files;
use super::load::LoadRequest;
use super::measure::{self, Rounds};
use super::pool::{Model, Team};
use super::protocol::encode;
use super::report::Reporter;
use super::shard::LoadShard;
use super::task::navigator;
use crate::error::{ErrorCode, Result};
use crate::model::shard::{Measured, Split, Work};
use crate::weights::FilePart;

/// Most workers that can be asked for.
const MAX_THREADS: usize = 64;
/// Most workers that are taken without being asked for.
const MAX_AUTO: usize = 8;

thread_local! {
    /// The most that this worker computed in a millisecond, once that was measured.
    static ALONE: Cell<Option<f64>> = const { Cell::new(None) };
}

/// The other workers of a model, while it loads.
pub(super) struct Crew {
    pub(super) team: Rc<Team>,
    /// The leader's share.
    pub(super) split: Split,
    /// Their answer once they have all their weights.
    loaded: Pin<Box<dyn Future<Output = Result<Array>>>>,
    /// What they hold.
    pub(super) memory_bytes: u64,
}

impl Crew {
    /// Starts as many workers as the request asks for, and tells them of the model; `None` for one. A browser that starts
    /// none is no reason to fail.
    pub(super) async fn hire(
        request: &LoadRequest,
        file: &Rc<Files>,
        parts: &[FilePart],
        work: &Work<'_>,
        reporter: &Reporter,
    ) -> Result<Option<Crew>> {
        let team = match request.threads {
            Some(threads) => start(threads as usize).await,
            None => choose(work).await,
        };
        let (team, count) = match team {
            Ok(Some(team)) => team,
            Ok(None) => return Ok(None),
            Err(error) => {
                if request.threads.is_none() && error.code() == ErrorCode::WorkerFailed {
                    return Ok(None);
                }
                reporter.warn_of(&error, "the model runs on one core");
                return Ok(None);
            }
        };
        let split = Split { index: 0, count, least: work.least_elements() };
        let (context_length, quantize) = (request.context_length, request.quantize.clone());
        let least = split.least;
        let body = encode(&LoadShard { count, least, context_length, quantize, ..file.description()? });
        let loaded = Box::pin(team.ask("load", &body));
        team.keep(Model { description: body, files: Rc::clone(file), parts: parts.to_vec() });
        Ok(Some(Crew { team, split, loaded, memory_bytes: 0 }))
    }

    /// Waits until all others are ready.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let answers = self.loaded.as_mut().await?;
        self.memory_bytes = answers.iter().filter_map(|bytes| bytes.as_f64()).sum::<f64>() as u64;
        Ok(())
    }
}

/// As many workers as are asked for, this one included; none for one.
async fn start(count: usize) -> Result<Option<(Rc<Team>, usize)>> {
    match count.clamp(1, MAX_THREADS) {
        1 => Ok(None),
        count => Ok(Some((Team::start(count).await?, count))),
    }
}

/// As many workers as make a token soonest, found by having all that there are cores for compute and exchange.
async fn choose(work: &Work<'_>) -> Result<Option<(Rc<Team>, usize)>> {
    let count = n_cores().min(MAX_AUTO);
    if count < 2 {
        return Ok(None);
    }
    // Of this processor, so the models that follow need not wait for it; how busy it is shows in what follows.
    let alone = match ALONE.get() {
        Some(speed) => speed,
        None => measure::speed().await?,
    };
    ALONE.set(Some(alone));
    if !work.is_worth_it(alone) {
        return Ok(None);
    }
    let team = Team::start(count).await?;
    let measured = measure(&team, count, alone, work).await?;
    ALONE.set(Some(measured.alone));
    let best = work.best(&measured);
    log::debug!("{measured:?}: {best} it is");
    if best == count {
        return Ok(Some((team, count)));
    }
    drop(team);
    start(best).await
}

/// How fast the workers of a team are, at what a token of this model takes, given how fast this one has been alone.
async fn measure(team: &Rc<Team>, count: usize, alone: f64, work: &Work<'_>) -> Result<Measured> {
    let theirs = team.ask("speed", &JsValue::NULL);
    let own = measure::speed().await?;
    let together = theirs.await?.iter().filter_map(|speed| speed.as_f64()).fold(own, f64::min);
    let rounds = Rounds::of(work.between_exchanges(count), together);
    let theirs = team.ask("rounds", &encode(&rounds));
    let round_ms = measure::rounds(&mut team.link(), rounds).await?;
    theirs.await?;
    Ok(Measured { alone: alone.max(own), together, round_ms: rounds.exchange_ms(round_ms, together), count })
}

/// How many workers a model gets at least, as far as is known before anything is measured.
pub(super) fn count(threads: Option<u32>, work: &Work<'_>) -> usize {
    let most = n_cores().clamp(1, MAX_AUTO);
    match threads {
        Some(threads) => (threads as usize).clamp(1, MAX_THREADS),
        None if work.least() <= most => work.least().max(1),
        None => 1,
    }
}

/// As the browser says.
fn n_cores() -> usize {
    navigator("hardwareConcurrency").as_f64().map_or(1, |cores| cores as usize)
}
