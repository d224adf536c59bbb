//! What every running request shares: a way to be stopped, and turns for the event loop.
//!
//! Principal types: [`Abort`] and [`Turns`]. Must not know what a request does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use web_time::Instant;

use super::task::event_loop_turn;
use crate::engine::Pause;
use crate::error::{Error, ErrorCode};

/// Longest time without a turn for the event loop, in milliseconds. A turn costs some microseconds; an abort must get
/// in within 200 ms even when a prefill chunk of 100 ms follows.
const TURN_EVERY_MS: f64 = 16.0;

/// Whether the page wants a request stopped.
#[derive(Default)]
pub struct Abort {
    aborted: Cell<bool>,
    /// What else to do at that moment, such as cutting a download.
    action: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Abort {
    /// Stops the request.
    pub fn abort(&self) {
        self.aborted.set(true);
        if let Some(action) = self.action.take() {
            action();
        }
    }

    /// Whether it was stopped.
    pub fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// Runs `action` when the request is stopped, instead of what was set before.
    pub fn on_abort(&self, action: impl FnOnce() + 'static) {
        self.action.replace(Some(Box::new(action)));
    }

    /// The error of a request that was stopped.
    pub fn error(&self) -> Error {
        Error::new(ErrorCode::Aborted, "the call was aborted by its signal")
    }
}

/// The engine's pauses: now and then the event loop gets a turn, in which an abort may come.
pub struct Turns {
    abort: Rc<Abort>,
    last: Cell<Instant>,
}

impl Turns {
    /// For a request that `abort` stops.
    pub fn new(abort: Rc<Abort>) -> Self {
        Self { abort, last: Cell::new(Instant::now()) }
    }
}

impl Pause for Turns {
    async fn pause(&self) -> bool {
        if self.last.get().elapsed().as_secs_f64() * 1000.0 >= TURN_EVERY_MS {
            event_loop_turn().await;
            self.last.set(Instant::now());
        }
        !self.abort.is_aborted()
    }
}
