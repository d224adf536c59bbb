//! What the page hears while a model loads: progress, and warnings about what could be worked around.
//!
//! Principal type: [`Reporter`]. Must not know where bytes come from.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::Serialize;
use wasm_bindgen::JsValue;
use web_time::Instant;

use super::protocol::{encode, object};
use super::resolve::Resolver;
use crate::error::{Error, ErrorCode};

/// Least time between two reports of the same phase.
const EVERY_MS: f64 = 100.0;
/// Weight of the newest speed in the average: about two seconds of memory.
const NEWEST: f64 = 0.1;
/// Share of the load that is the weights; the rest is what comes after the last of them.
const WEIGHTS_SHARE: f64 = 0.98;

/// Part of the load, as `Progress.phase` of types.ts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Looking for a device.
    Starting,
    /// Reading the file's header.
    Header,
    /// Weights come over the network or out of a local file.
    Downloading,
    /// Weights come out of this browser's storage.
    ReadingCache,
    /// All weights are there; the backend gets ready.
    Checking,
    /// Done.
    Ready,
}

/// Something that was worked around.
#[derive(Clone, Debug, Serialize)]
pub struct Warning {
    code: &'static str,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    phase: Phase,
    loaded_bytes: u64,
    total_bytes: u64,
    fraction: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<f64>,
}

/// Collects what happens and tells the page, not too often.
pub struct Reporter {
    send: Rc<dyn Fn(JsValue)>,
    phase: Cell<Phase>,
    /// When the running phase began.
    since: Cell<Instant>,
    loaded: Cell<u64>,
    total: Cell<u64>,
    /// Time and bytes of the last report.
    last: Cell<Option<(Instant, u64)>>,
    bytes_per_second: Cell<Option<f64>>,
    warnings: RefCell<Vec<Warning>>,
    /// The last error that was worked around.
    excused: RefCell<Option<Error>>,
    /// Whether it has been told that storage does not take part.
    not_kept: Cell<bool>,
}

impl Reporter {
    /// `send` posts an event of the running request.
    pub fn new(send: impl Fn(JsValue) + 'static) -> Self {
        Self {
            send: Rc::new(send),
            phase: Cell::new(Phase::Starting),
            since: Cell::new(Instant::now()),
            loaded: Cell::new(0),
            total: Cell::new(0),
            last: Cell::new(None),
            bytes_per_second: Cell::new(None),
            warnings: RefCell::default(),
            excused: RefCell::default(),
            not_kept: Cell::new(false),
        }
    }

    /// A new part of the load begins.
    pub fn phase(&self, phase: Phase) {
        if self.phase.replace(phase) != phase {
            self.since.set(Instant::now());
            self.last.set(None);
            self.bytes_per_second.set(None);
            self.post();
        }
    }

    /// Milliseconds that the running phase has taken so far.
    pub fn phase_ms(&self) -> f64 {
        self.since.get().elapsed().as_secs_f64() * 1000.0
    }

    /// Asks the page by the same way.
    pub fn resolver(&self) -> Resolver {
        Resolver::new(Rc::clone(&self.send))
    }

    /// How many bytes there will be.
    pub fn total(&self, total: u64) {
        self.total.set(total);
    }

    /// So many more bytes are in place.
    pub fn add(&self, bytes: u64) {
        self.loaded.set(self.loaded.get() + bytes);
        let now = Instant::now();
        let Some((then, loaded)) = self.last.get() else {
            self.last.set(Some((now, self.loaded.get())));
            return self.post();
        };
        let elapsed = (now - then).as_secs_f64();
        if elapsed * 1000.0 < EVERY_MS {
            return;
        }
        let speed = (self.loaded.get() - loaded) as f64 / elapsed;
        let average = self.bytes_per_second.get().map_or(speed, |old| old + (speed - old) * NEWEST);
        self.bytes_per_second.set(Some(average));
        self.last.set(Some((now, self.loaded.get())));
        self.post();
    }

    /// The load begins again from nothing.
    pub fn restart(&self) {
        self.loaded.set(0);
        self.last.set(None);
    }

    /// Tells the page of something that was worked around.
    pub fn warn(&self, code: ErrorCode, message: String) {
        log::warn!("{message}");
        let warning = Warning { code: code.as_str(), message };
        (self.send)(object([("kind", "warning".into()), ("warning", encode(&warning))]));
        self.warnings.borrow_mut().push(warning);
    }

    /// The same, for an error that need not stop the load.
    pub fn warn_of(&self, error: &Error, consequence: &str) {
        self.warn(error.code(), format!("{}; {consequence}", error.message()));
        self.excused.replace(Some(Error::new(error.code(), error.message())));
    }

    /// The last error that was worked around, for who cannot.
    pub fn take_excused(&self) -> Option<Error> {
        self.excused.take()
    }

    /// Says, once, that the load goes on without storage: a model that runs is worth more than one that is kept.
    pub fn warn_not_kept(&self, error: &Error) {
        if !self.not_kept.replace(true) {
            self.warn_of(error, "the model is used without being kept in this browser");
        }
    }

    /// All warnings so far.
    pub fn warnings(&self) -> Vec<Warning> {
        self.warnings.borrow().clone()
    }

    fn post(&self) {
        let (loaded, total) = (self.loaded.get(), self.total.get());
        let fraction = match self.phase.get() {
            Phase::Ready => 1.0,
            _ if total == 0 => 0.0,
            _ => (loaded as f64 / total as f64).min(1.0) * WEIGHTS_SHARE,
        };
        let speed = self.bytes_per_second.get().filter(|speed| *speed > 0.0);
        let progress = Progress {
            phase: self.phase.get(),
            loaded_bytes: loaded,
            total_bytes: total,
            fraction,
            bytes_per_second: speed,
            eta_seconds: speed.map(|speed| total.saturating_sub(loaded) as f64 / speed),
        };
        (self.send)(object([("kind", "progress".into()), ("progress", encode(&progress))]));
    }
}
