//! How fast the workers of a pool compute and exchange here and now: by which the number of workers is chosen.
//!
//! Principal functions: [`speed`] and [`rounds`], run by all workers at a time. Must not know models.

use std::future::poll_fn;

use serde::{Deserialize, Serialize};
use web_time::Instant;

use crate::backend::cpu::{Link, Trial};
use crate::error::Result;

/// How long a worker computes to find its speed, in milliseconds: some turns that a system gives in turns on a busy core.
const SPEED_MS: f64 = 20.0;
/// How long rounds go on, about.
const ROUNDS_MS: f64 = 25.0;
/// Rounds that are timed, at least and at most; as many go before, until the engine has compiled what they do.
const ROUNDS: (f64, f64) = (16.0, 400.0);
/// What an exchange is taken to cost to begin with.
const ROUND_MS: f64 = 0.05;
/// Multiplications of a product of which the speed is told, on weights that come from beyond the nearest caches.
const PRODUCTS: f64 = (512 * 4096) as f64;
/// Elements of a part that is typical of a token.
const PART: usize = 512;

/// Multiplications a millisecond of the product kernels.
/// # Errors
/// `OutOfMemory`.
pub(super) async fn speed() -> Result<f64> {
    let mut trial = Trial::new(PRODUCTS).await?;
    trial.run().await?;
    let (start, mut done) = (Instant::now(), 0.0);
    loop {
        done += trial.run().await?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if ms >= SPEED_MS {
            return Ok(done / ms);
        }
    }
}

/// What all workers do in [`rounds`].
#[derive(Clone, Copy, Deserialize, Serialize)]
pub(super) struct Rounds {
    count: u32,
    /// Multiplications between two exchanges.
    products: f64,
}

impl Rounds {
    /// Of workers that have so many multiplications between two exchanges, at a known speed.
    pub(super) fn of(products: f64, speed: f64) -> Rounds {
        let products = products.min(PRODUCTS);
        let count = ROUNDS_MS / (products / speed + ROUND_MS);
        Rounds { count: count.clamp(ROUNDS.0, ROUNDS.1) as u32, products }
    }

    /// What an exchange takes of a round's time.
    pub(super) fn exchange_ms(&self, round_ms: f64, speed: f64) -> f64 {
        (round_ms - self.products / speed).max(0.0)
    }
}

/// Milliseconds of a round of computing and exchanging parts, which all workers run together.
/// # Errors
/// `WorkerFailed`, `OutOfMemory`.
pub(super) async fn rounds(link: &mut dyn Link, Rounds { count, products }: Rounds) -> Result<f64> {
    let mut trial = Trial::new(products).await?;
    let part = [0.0; PART];
    let mut start = Instant::now();
    for round in 0..2 * count {
        if round == count {
            start = Instant::now();
        }
        trial.run().await?;
        link.send(&part)?;
        poll_fn(|context| link.poll_receive(context, &mut |_, _| ())).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(count))
}
