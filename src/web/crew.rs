//! The other workers that a model gets while it loads: how many, and what they are told.
//!
//! Principal type: [`Crew`]. Must not know backends.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;

use js_sys::Array;
use wasm_bindgen::JsValue;
use web_time::Instant;

use super::files::Files;
use super::load::LoadRequest;
use super::measure::{self, Rounds};
use super::pool::{Model, Team};
use super::protocol::{decode, encode};
use super::report::Reporter;
use super::shard::LoadShard;
use super::task::navigator;
use super::watch::Watch;
use crate::error::{ErrorCode, Result};
use crate::model::shard::{Measured, Split, Work};
use crate::weights::{FilePart, WeightMap};

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
    /// When they began to be filled.
    began: Instant,
    /// Where their number was not asked for: what a token's products take one worker, and how many have the memory at least.
    watched: Option<(f64, usize)>,
    /// Bytes of what they hold, and of their wasm memories.
    pub(super) held: [u64; 2],
}

impl Crew {
    /// Starts as many workers as the request asks for, and tells them of the model; `None` for one. A browser that starts
    /// none is no reason to fail.
    pub(super) async fn hire(
        request: &LoadRequest,
        file: &Rc<Files>,
        (parts, weights): (&[FilePart], &WeightMap),
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
        let (quantize, kv_cache) = (request.quantize.clone(), request.kv_cache.clone());
        let (context_length, least, rest) = (request.context_length, split.least, file.description()?);
        let body = encode(&LoadShard { count, least, context_length, quantize, kv_cache, ..rest });
        let loaded = Box::pin(team.ask("load", &body));
        let weights = weights.clone();
        team.keep(Model { description: body, files: Rc::clone(file), parts: parts.to_vec(), weights });
        let watched = request.threads.is_none().then(|| (alone_ms(work), work.least()));
        Ok(Some(Crew { watched, began: Instant::now(), team, split, loaded, held: [0; 2] }))
    }

    /// Waits until all others are ready.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let answers = self.loaded.as_mut().await?;
        if let Some((alone_ms, least)) = self.watched {
            let load_ms = self.began.elapsed().as_secs_f64() * 1e3;
            *self.team.watch() = Some(Watch::new(alone_ms, least, load_ms));
        }
        for answer in answers.iter() {
            let held: [u64; 2] = decode(answer)?;
            self.held = [self.held[0] + held[0], self.held[1] + held[1]];
        }
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
    let count = most();
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
    let measured = measure(&team, count, work).await?;
    let best = work.best(&measured);
    log::debug!("{measured:?}: {best} it is");
    if best == count {
        return Ok(Some((team, count)));
    }
    drop(team);
    start(best).await
}

/// Most workers that are taken without being asked for.
pub(super) fn most() -> usize {
    n_cores().clamp(1, MAX_AUTO)
}

/// Milliseconds of a token's products on this worker, by the best speed it has had.
pub(super) fn alone_ms(work: &Work<'_>) -> f64 {
    work.alone_ms(ALONE.get().unwrap_or(f64::INFINITY))
}

/// How fast the workers of a team are, at what a token of this model takes.
pub(super) async fn measure(team: &Rc<Team>, count: usize, work: &Work<'_>) -> Result<Measured> {
    let theirs = team.ask("speed", &JsValue::NULL);
    let own = measure::speed().await?;
    let together = theirs.await?.iter().filter_map(|speed| speed.as_f64()).fold(own, f64::min);
    let rounds = Rounds::of(work.between_exchanges(count), together);
    let theirs = team.ask("rounds", &encode(&rounds));
    let round_ms = measure::rounds(&mut team.link(), rounds).await?;
    theirs.await?;
    let alone = ALONE.get().unwrap_or(own).max(own);
    ALONE.set(Some(alone));
    Ok(Measured { alone, together, round_ms: rounds.exchange_ms(round_ms, together), count })
}

/// How many workers a model gets at least, as far as is known before anything is measured.
pub(super) fn count(threads: Option<u32>, work: &Work<'_>) -> usize {
    let most = most();
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
