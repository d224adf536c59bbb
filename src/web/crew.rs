//! The other workers that a model gets while it loads: how many, and what they are told.
//!
//! Principal type: [`Crew`]. Must not know backends.

use std::pin::Pin;
use std::rc::Rc;

use js_sys::{Array, Reflect};
use wasm_bindgen::JsValue;

use super::files::Files;
use super::load::LoadRequest;
use super::pool::Team;
use super::protocol::object;
use super::report::Reporter;
use crate::error::Result;
use crate::model::shard::Split;

/// Most workers that can be asked for.
const MAX_THREADS: u32 = 64;

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
        file: &Files,
        reporter: &Reporter,
    ) -> Result<Option<Crew>> {
        let count = request.threads.unwrap_or(1).clamp(1, MAX_THREADS) as usize;
        if count == 1 {
            return Ok(None);
        }
        let team = match Team::start(count).await {
            Ok(team) => team,
            Err(error) => {
                reporter.warn_of(&error, "the model runs on one core");
                return Ok(None);
            }
        };
        let split = Split { index: 0, count, least: 1 << 15 };
        let body = object(file.description()?);
        let number = |name: &str, value: f64| {
            Reflect::set(&body, &name.into(), &value.into()).expect("invariant: a plain object");
        };
        number("count", count as f64);
        number("least", split.least as f64);
        if let Some(n_ctx) = request.context_length {
            number("contextLength", f64::from(n_ctx));
        }
        let quantize = request.quantize.as_deref().map_or(JsValue::UNDEFINED, JsValue::from);
        Reflect::set(&body, &"quantize".into(), &quantize).expect("invariant: a plain object");
        let loaded = Box::pin(team.ask("load", &body));
        Ok(Some(Crew { team, split, loaded, memory_bytes: 0 }))
    }

    /// Waits until all others are ready.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let answers = self.loaded.as_mut().await?;
        self.memory_bytes = answers.iter().filter_map(|bytes| bytes.as_f64()).sum::<f64>() as u64;
        Ok(())
    }
}
