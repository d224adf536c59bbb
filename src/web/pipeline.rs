//! All parts of a model, on their way from storage or the network into the backend and into storage.
//!
//! Principal type: [`Pipeline`]. Must not know where a file is, nor which backend is taken.

use std::collections::VecDeque;
use std::rc::Rc;

use wasm_bindgen::JsValue;
use web_time::Instant;

use super::file::{ModelFile, Part};
use super::files::Files;
use super::pool::Team;
use super::protocol::object;
use super::report::{Phase, Reporter};
use super::request::Abort;
use super::task::{Task, event_loop_turn};
use super::upload::{Uploader, Window};
use crate::backend::AnyBackend;
use crate::error::Result;
use crate::weights::{FilePart, WeightMap};

/// Stored parts read ahead of the upload.
const READ_AHEAD: usize = 3;
/// Parts being hashed and stored at a time; each holds 16 MiB of JS memory.
const KEEP_AT_ONCE: usize = 2;
/// Parts asked of a server at a time, to begin with and at most; each holds 16 MiB of JS memory.
const FIRST_LANES: usize = 2;
const MAX_LANES: usize = 6;
/// A further request at a time must make the whole faster by so much to stay.
const WORTH: f64 = 1.1;
/// Below so many bytes a second the line is what limits: one part at a time, so that a cut loses little.
const SLOW: f64 = 1e6;

/// A part as `shard.rs` has it.
pub(super) fn part_message(index: usize, file: &ModelFile, part: &Part) -> Result<JsValue> {
    Ok(object([
        ("file", index.into()),
        ("start", (part.range.start as f64).into()),
        ("end", (part.range.end as f64).into()),
        ("blob", file.blob(part)?.into()),
    ]))
}

/// A part on its way.
struct Coming {
    /// Number of its file.
    index: usize,
    file: Rc<ModelFile>,
    is_stored: bool,
    part: Task<Result<Part>>,
}

impl Coming {
    fn tell(&self, reporter: &Reporter) {
        reporter.phase(if self.is_stored { Phase::ReadingCache } else { Phase::Downloading });
    }
}

/// While one part is uploaded, hashed and stored, the next ones are on their way.
pub(super) struct Pipeline<'a> {
    file: &'a Rc<Files>,
    parts: Vec<FilePart>,
    /// Index of the next part to ask for.
    next: usize,
    /// Parts asked for, in order.
    coming: VecDeque<Coming>,
    keeping: VecDeque<Task<()>>,
    lanes: Lanes,
}

/// How many parts are asked of a server at a time: more as long as that makes the whole faster.
struct Lanes {
    n: usize,
    /// Bytes per second with the number before.
    best: f64,
    /// More was tried, and was not worth it.
    settled: bool,
    since: Instant,
    bytes: u64,
    parts: usize,
    /// Parts to come that say nothing of the line.
    waiting: usize,
}

impl Lanes {
    fn new() -> Self {
        let since = Instant::now();
        Self { n: FIRST_LANES, best: 0.0, settled: false, since, bytes: 0, parts: 0, waiting: 0 }
    }

    /// A part has come. After as many as go side by side, their speed is looked at.
    fn arrived(&mut self, bytes: u64) {
        if self.waiting > 0 {
            self.waiting -= 1;
            self.since = Instant::now();
            return;
        }
        self.bytes += bytes;
        self.parts += 1;
        if self.parts < self.n {
            return;
        }
        let speed = self.bytes as f64 / self.since.elapsed().as_secs_f64().max(1e-3);
        if speed < SLOW {
            (self.n, self.settled) = (1, true);
        } else if !self.settled && speed > self.best * WORTH {
            self.best = speed;
            self.n = (self.n + 1).min(MAX_LANES);
        } else if !self.settled {
            (self.n, self.settled) = ((self.n - 1).max(FIRST_LANES), true);
        }
        (self.since, self.bytes, self.parts) = (Instant::now(), 0, 0);
    }
}

impl<'a> Pipeline<'a> {
    /// The first parts are on their way from now on; [`Self::end`] must follow.
    pub(super) fn begin(file: &'a Rc<Files>, parts: Vec<FilePart>, reporter: &Reporter) -> Self {
        let (coming, keeping, lanes) = (VecDeque::new(), VecDeque::new(), Lanes::new());
        let mut pipeline = Pipeline { file, parts, next: 0, coming, keeping, lanes };
        pipeline.ask();
        if let Some(first) = pipeline.coming.front() {
            first.tell(reporter);
        }
        pipeline
    }

    /// What is on its way may have come while something else was waited for.
    pub(super) fn waited(&mut self) {
        self.lanes.waiting = self.coming.len();
    }

    /// Keeps what is whole even when the load failed: the next try begins behind it.
    pub(super) async fn end(mut self, failed: bool) {
        if failed {
            self.file.cancel();
        }
        for Coming { file, part, .. } in std::mem::take(&mut self.coming) {
            if let Ok(part) = part.await
                && part.is_new
            {
                file.keep(part).await;
            }
        }
        self.kept().await;
    }

    /// Streams all parts into the backend, to the other workers of a pool, and into storage. Without a backend, storage is all
    /// there is, and must take them.
    pub(super) async fn run(
        &mut self,
        mut backend: Option<&mut AnyBackend>,
        weights: &WeightMap,
        team: Option<&Team>,
        abort: &Abort,
        reporter: &Reporter,
    ) -> Result<()> {
        let mut uploader = Uploader::new(weights);
        loop {
            self.ask();
            let Some(coming) = self.coming.pop_front() else {
                // A file that is refused is removed: nothing of it may be stored after that.
                self.kept().await;
                for file in self.file.all() {
                    file.check_digest().await?;
                }
                if let Some(team) = team {
                    team.ask("part", &JsValue::NULL).await?;
                }
                return backend.map_or(Ok(()), |backend| uploader.finish(backend));
            };
            coming.tell(reporter);
            let Coming { index, file, is_stored, part } = coming;
            let part = part.await?;
            if !is_stored {
                self.lanes.arrived(u64::from(part.bytes.length()));
            }
            // The next part's bytes flow while this one is stored and uploaded.
            self.ask();
            file.digest(&part.bytes);
            if part.is_new {
                if self.keeping.len() >= KEEP_AT_ONCE
                    && let Some(oldest) = self.keeping.pop_front()
                {
                    oldest.await;
                }
                let keep = Rc::clone(&file).keep(part.clone());
                self.keeping.push_back(Task::spawn(keep));
            }
            let theirs = match team {
                Some(team) => Some(team.ask("part", &part_message(index, &file, &part)?)),
                None => None,
            };
            match &mut backend {
                Some(backend) => {
                    let window = Window::whole(part.bytes.clone());
                    uploader.upload(&mut **backend, index, part.range.clone(), window).await?;
                }
                None => self.file.must_be_cached()?,
            }
            if let Some(theirs) = theirs {
                theirs.await?;
            }
            if let Some(backend) = &backend {
                uploader.settle(backend).await?;
            }
            file.drop_head_before(part.range.end);
            event_loop_turn().await;
            if abort.is_aborted() {
                return Err(abort.error());
            }
        }
    }

    /// Waits until all is stored that is on its way there.
    async fn kept(&mut self) {
        for kept in self.keeping.drain(..) {
            kept.await;
        }
    }

    /// Asks for more parts: of storage a few, of a server as many as make it faster, of one without ranges, or of a
    /// local file, one at a time.
    fn ask(&mut self) {
        while self.next < self.parts.len() {
            let FilePart { file: index, index: number, range } = self.parts[self.next].clone();
            let file = self.file.file(index);
            let is_stored = file.is_stored(number);
            let fetched = self.coming.iter().filter(|coming| !coming.is_stored).count();
            let full = match is_stored {
                true => self.coming.len() >= READ_AHEAD,
                false => fetched >= if file.has_ranges() { self.lanes.n } else { 1 },
            };
            if full {
                return;
            }
            let part = Task::spawn(Rc::clone(&file).part(number, range));
            self.coming.push_back(Coming { index, file, is_stored, part });
            self.next += 1;
        }
    }
}
