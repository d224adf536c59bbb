//! Several cores: a backend of shards, each on a thread of its own with its own rows of the weights.
//!
//! Principal type: [`CpuPool`]. It is filled and run like any backend; the calling thread is the first shard. The
//! threads share nothing but the [`Hub`] where they leave their parts. Must not know ops.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use super::exchange::{Link, at_once};
use super::routes::{Route, part_of};
use super::{CpuBackend, CpuMode};
use crate::backend::{Backend, Counters, ModelPlan, Outputs};
use crate::bail;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::Graph;
use crate::model::shard::Split;
use crate::tensor::DType;

/// Most threads of a pool.
pub const MAX_THREADS: usize = 64;
/// Pieces of weights that wait for a thread.
const WAITING: usize = 16;
/// Looks at the others' progress before a thread sleeps: some ten microseconds, longer than shards on idle cores differ.
const SPINS: usize = 2000;

/// How a model is spread over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// From 2 to [`MAX_THREADS`].
    pub threads: usize,
    /// Matrices of fewer elements are held by every thread.
    pub least: usize,
}

impl Sharding {
    /// Over `threads` threads, by what an exchange costs between cores: a microsecond or two, in which a core multiplies
    /// with this many weights.
    pub fn over(threads: usize) -> Sharding {
        Sharding { threads, least: 1 << 15 }
    }
}

/// A model on several threads.
pub struct CpuPool {
    own: CpuBackend,
    workers: Vec<Worker>,
    sharding: Sharding,
    hub: Arc<Hub>,
    routes: Routes,
    /// The whole graph's and the formats of its weights.
    plan: ModelPlan,
}

/// Of each weight, which thread gets which rows.
type Routes = Vec<Vec<(usize, Route)>>;

/// What a thread is asked to do; all but uploads are answered.
enum Command {
    Upload { weight: usize, offset: u64, bytes: Vec<u8> },
    Finish,
    Step { tokens: Vec<u32>, pos: usize, outputs: Outputs },
    Replace { graph: Box<Graph>, dtypes: Vec<DType>, n_kept: usize },
    LongRope(bool),
    Select(usize),
    MemoryBytes,
}

/// Another shard's thread.
struct Worker {
    commands: SyncSender<Command>,
    answers: Receiver<Result<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl CpuPool {
    /// Allocates everything but the weights, as [`CpuBackend::new`], and starts the threads.
    /// # Errors
    /// As [`CpuBackend::new`]; `InvalidRequest` for an impossible number of threads.
    pub fn new(plan: ModelPlan, mode: CpuMode, sharding: Sharding) -> Result<CpuPool> {
        let count = sharding.threads;
        if !(2..=MAX_THREADS).contains(&count) {
            let message = format!("a pool of {count} threads; it has from 2 to {MAX_THREADS}");
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("threads"));
        }
        super::plan::check(&plan)?;
        let hub = Arc::new(Hub::new(count));
        let (plans, routes) = divide(&plan, sharding)?;
        let mut plans = plans.into_iter();
        let first = plans.next().expect("invariant: a pool has two shards");
        let mut workers = Vec::with_capacity(count - 1);
        for (index, plan) in plans.enumerate() {
            workers.push(Worker::start(plan, mode, HubLink::new(&hub, index + 1))?);
        }
        let own = CpuBackend::with_link(first, mode, Some(Box::new(HubLink::new(&hub, 0))))?;
        for worker in &workers {
            worker.answer()?;
        }
        Ok(CpuPool { own, workers, sharding, hub, routes, plan })
    }

    /// Threads at work.
    pub fn n_threads(&self) -> usize {
        self.sharding.threads
    }

    /// Asks all other threads, and waits for the answers.
    fn ask(&self, command: impl Fn() -> Command) -> Result<u64> {
        for worker in &self.workers {
            worker.send(command())?;
        }
        self.answers()
    }

    /// The sum of the answers.
    fn answers(&self) -> Result<u64> {
        let answers: Vec<_> = self.workers.iter().map(Worker::answer).collect();
        answers.into_iter().sum()
    }
}

/// The plans of all shards, and for each weight of `plan` where its rows go.
fn divide(plan: &ModelPlan, sharding: Sharding) -> Result<(Vec<ModelPlan>, Routes)> {
    let Sharding { threads: count, least } = sharding;
    let mut routes = vec![Vec::new(); plan.graph.weights.len()];
    let mut plans = Vec::with_capacity(count);
    for index in 0..count {
        let (own, held) = part_of(plan, Split { index, count, least })?;
        plans.push(own);
        held.into_iter().for_each(|(weight, route)| routes[weight].push((index, route)));
    }
    Ok((plans, routes))
}

impl Worker {
    fn start(plan: ModelPlan, mode: CpuMode, link: HubLink) -> Result<Worker> {
        let (commands, asked) = sync_channel(WAITING);
        let (answer, answers) = channel();
        let work = move || work(plan, mode, link, &asked, &answer);
        let spawned = std::thread::Builder::new().name("lamplight shard".into()).spawn(work);
        let thread = spawned.map_err(|error| {
            let message = format!("a thread could not be started ({error}); use fewer threads");
            Error::new(ErrorCode::OutOfMemory, message).at("threads").caused_by(error)
        })?;
        Ok(Worker { commands, answers, thread: Some(thread) })
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| gone())
    }

    fn answer(&self) -> Result<u64> {
        self.answers.recv().map_err(|_| gone())?
    }
}

fn gone() -> Error {
    Error::new(ErrorCode::Internal, "one of the model's threads has ended; load the model again")
}

/// A thread: makes its backend, and does what it is asked until nobody can ask any more.
fn work(
    plan: ModelPlan,
    mode: CpuMode,
    link: HubLink,
    commands: &Receiver<Command>,
    answer: &Sender<Result<u64>>,
) {
    let hub = Arc::clone(&link.hub);
    let mut backend = match CpuBackend::with_link(plan, mode, Some(Box::new(link))) {
        Ok(backend) => backend,
        // Nobody listens where the pool is gone; this and all sends below.
        Err(error) => return answer.send(Err(error)).unwrap_or_default(),
    };
    if answer.send(Ok(0)).is_err() {
        return;
    }
    let mut uploaded = Ok(());
    while let Ok(command) = commands.recv() {
        let result = match command {
            Command::Upload { weight, offset, bytes } => {
                if uploaded.is_ok() {
                    uploaded = backend.upload(weight, offset, &bytes);
                }
                continue;
            }
            Command::Finish => std::mem::replace(&mut uploaded, Ok(()))
                .and_then(|()| at_once(backend.finish_upload()))
                .map(|()| 0),
            Command::Step { tokens, pos, outputs } => {
                let result = at_once(backend.forward(&tokens, pos, outputs)).map(|_| 0);
                // The others must not wait for what will not come.
                if result.is_err() {
                    hub.close();
                }
                result
            }
            Command::Replace { graph, dtypes, n_kept } => {
                at_once(backend.replace_graph(*graph, dtypes, n_kept)).map(|()| 0)
            }
            Command::LongRope(long) => {
                backend.use_long_rope(long);
                Ok(0)
            }
            Command::Select(sequence) => {
                backend.select(sequence);
                Ok(0)
            }
            Command::MemoryBytes => Ok(backend.memory_bytes()),
        };
        if answer.send(result).is_err() {
            return;
        }
    }
}

impl Backend for CpuPool {
    fn upload(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(routes) = self.routes.get(weight) else {
            bail!(Internal, "weight {weight} of {}", self.routes.len());
        };
        for (shard, route) in routes {
            for (offset, bytes) in route.take(offset, bytes) {
                match shard.checked_sub(1) {
                    None => self.own.upload(route.weight, offset, bytes)?,
                    Some(worker) => {
                        let (weight, bytes) = (route.weight, bytes.to_vec());
                        self.workers[worker].send(Command::Upload { weight, offset, bytes })?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn finish_upload(&mut self) -> Result<()> {
        for worker in &self.workers {
            worker.send(Command::Finish)?;
        }
        let own = self.own.finish_upload().await;
        self.answers().and(own)
    }

    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        self.own.check_step(tokens, pos)?;
        let mut order = self.own.past.order;
        order.begin(pos, pos + tokens.len())?;
        for worker in &self.workers {
            worker.send(Command::Step { tokens: tokens.to_vec(), pos, outputs })?;
        }
        let logits = self.own.forward(tokens, pos, outputs).await;
        if logits.is_err() {
            self.hub.close();
        }
        self.answers()?;
        logits
    }

    fn select(&mut self, sequence: usize) {
        self.own.select(sequence);
        // As below.
        self.ask(|| Command::Select(sequence)).unwrap_or_default();
    }

    fn earliest(&self) -> usize {
        self.own.earliest()
    }

    fn reuse(&mut self, logits: Vec<f32>) {
        self.own.reuse(logits);
    }

    async fn replace_graph(&mut self, graph: Graph, dtypes: Vec<DType>, n_kept: usize) -> Result<()> {
        let plan = ModelPlan { graph, dtypes, ..self.plan };
        super::plan::check(&plan)?;
        let (plans, routes) = divide(&plan, self.sharding)?;
        let n_kept_of =
            |shard: usize| routes.iter().take(n_kept).flatten().filter(|(other, _)| *other == shard).count();
        for (index, ModelPlan { graph, dtypes, .. }) in plans.into_iter().enumerate() {
            let n_kept = n_kept_of(index);
            // What does not fit the first shard fits none, and nothing has changed.
            let Some(worker) = index.checked_sub(1).map(|worker| &self.workers[worker]) else {
                self.own.replace_graph(graph, dtypes, n_kept).await?;
                continue;
            };
            let asked = worker.send(Command::Replace { graph: Box::new(graph), dtypes, n_kept });
            // Shards of two graphs must not meet.
            asked.and_then(|()| worker.answer()).inspect_err(|_| self.hub.close())?;
        }
        (self.plan, self.routes) = (plan, routes);
        Ok(())
    }

    fn use_long_rope(&mut self, long: bool) {
        self.own.use_long_rope(long);
        // A thread that is gone is reported by the next step.
        self.ask(|| Command::LongRope(long)).unwrap_or_default();
    }

    fn counters(&self) -> Counters {
        self.own.counters()
    }

    fn memory_bytes(&self) -> u64 {
        self.own.memory_bytes() + self.ask(|| Command::MemoryBytes).unwrap_or_default()
    }
}

impl Drop for CpuPool {
    fn drop(&mut self) {
        self.hub.close();
        for Worker { commands, thread, .. } in &mut self.workers {
            // Without anybody to ask, the thread ends.
            *commands = sync_channel(0).0;
            if let Some(thread) = thread.take() {
                thread.join().unwrap_or_default();
            }
        }
    }
}

/// Where the threads leave their parts: two places each, used in turn, so that a part is still there for those that are
/// late when its owner has the next one.
struct Hub {
    parts: Vec<[RwLock<Vec<f32>>; 2]>,
    /// Parts left since the beginning.
    n_left: AtomicU64,
    n_asleep: AtomicUsize,
    closed: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Hub {
    fn new(count: usize) -> Hub {
        Hub {
            parts: (0..count).map(|_| Default::default()).collect(),
            n_left: AtomicU64::new(0),
            n_asleep: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Ends all waiting, now and later.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let _held = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }

    /// One more part is there.
    fn left(&self) {
        self.n_left.fetch_add(1, Ordering::SeqCst);
        // A thread that is about to sleep has counted itself before it looks for the last time.
        if self.n_asleep.load(Ordering::SeqCst) > 0 {
            let _held = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    /// Waits until `n` parts have been left: briefly awake, then asleep, for a thread that only looks takes the core that
    /// the others may need.
    fn wait_for(&self, n: u64) -> Result<()> {
        let done = || self.n_left.load(Ordering::SeqCst) >= n || self.closed.load(Ordering::SeqCst);
        for _ in 0..SPINS {
            if done() {
                break;
            }
            std::hint::spin_loop();
        }
        if !done() {
            let mut held = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.n_asleep.fetch_add(1, Ordering::SeqCst);
            while !done() {
                held = self.wake.wait(held).unwrap_or_else(PoisonError::into_inner);
            }
            self.n_asleep.fetch_sub(1, Ordering::SeqCst);
        }
        if self.closed.load(Ordering::SeqCst) { Err(gone()) } else { Ok(()) }
    }
}

/// One thread's end of the hub.
struct HubLink {
    hub: Arc<Hub>,
    index: usize,
    round: u64,
}

impl HubLink {
    fn new(hub: &Arc<Hub>, index: usize) -> HubLink {
        HubLink { hub: Arc::clone(hub), index, round: 0 }
    }
}

impl Drop for HubLink {
    /// A thread that ends leaves no other waiting.
    fn drop(&mut self) {
        self.hub.close();
    }
}

impl Link for HubLink {
    fn index(&self) -> usize {
        self.index
    }

    fn send(&mut self, part: &[f32]) -> Result<()> {
        let place = &self.hub.parts[self.index][(self.round % 2) as usize];
        {
            let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
            place.clear();
            place.extend_from_slice(part);
        }
        self.round += 1;
        self.hub.left();
        Ok(())
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, take: &mut dyn FnMut(usize, &[f32])) -> Poll<Result<()>> {
        self.hub.wait_for(self.round * self.hub.parts.len() as u64)?;
        for (shard, places) in self.hub.parts.iter().enumerate().filter(|(shard, _)| *shard != self.index) {
            let place = &places[((self.round - 1) % 2) as usize];
            take(shard, &place.read().unwrap_or_else(PoisonError::into_inner));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every thread gets every other's part of every round, with threads that are late in turns.
    #[test]
    fn all_parts_of_all_rounds_arrive() {
        const COUNT: usize = 3;
        const ROUNDS: usize = 200;
        let hub = Arc::new(Hub::new(COUNT));
        let turn = |index: usize| {
            let mut link = HubLink::new(&hub, index);
            move || {
                for round in 0..ROUNDS {
                    if round % COUNT == index && round % 20 < COUNT {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    link.send(&vec![(round * COUNT + index) as f32; round % 3]).expect("sent");
                    let mut found = Vec::new();
                    let mut take = |shard: usize, part: &[f32]| found.push((shard, part.to_vec()));
                    let received =
                        at_once(std::future::poll_fn(|context| link.poll_receive(context, &mut take)));
                    received.expect("all are there");
                    let others = (0..COUNT).filter(|shard| *shard != index);
                    let part = |shard| (shard, vec![(round * COUNT + shard) as f32; round % 3]);
                    assert_eq!(found, others.map(part).collect::<Vec<_>>());
                }
                // The others may still read the last round.
                link
            }
        };
        let threads: Vec<_> = (0..COUNT).map(|index| std::thread::spawn(turn(index))).collect();
        let links: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!(links.len(), COUNT);
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_ended() {
        let hub = Arc::new(Hub::new(2));
        let mut link = HubLink::new(&hub, 0);
        let other = HubLink::new(&hub, 1);
        let ends = std::thread::spawn(move || drop(other));
        link.send(&[1.0]).expect("sent");
        let received = at_once(std::future::poll_fn(|context| link.poll_receive(context, &mut |_, _| ())));
        assert_eq!(received.expect_err("a thread is gone").code(), ErrorCode::Internal);
        ends.join().expect("no panic");
    }
}
