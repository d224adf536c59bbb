//! The other workers that a model runs on: started, filled and told what to do by the one that the page started.
//!
//! Principal types: [`Team`], the leader's hold on the others, and [`WebLink`], a worker's way to the rest. Starting
//! workers and carrying parts is TypeScript (`pool.ts`, `link.ts`). Must not know requests.

use std::cell::{Cell, RefCell, RefMut};
#[cfg(feature = "gpu")]
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use js_sys::{Array, Float32Array, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::blobs::OriginFiles;
use super::files::Files;
use super::pipeline::part_message;
use super::protocol::encode;
use super::serve::SetAdaptersRequest;
use super::task::describe;
use super::upload::{Uploader, Window};
use super::watch::{self, Watch};
use crate::backend::cpu::{CpuShard, Link, Step, Waiting};
use crate::backend::{Outputs, Profile};
use crate::engine::AdapterId;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::Graph;
use crate::weights::{FilePart, WeightMap};

#[wasm_bindgen]
extern "C" {
    /// What the worker's script offers.
    #[derive(Clone)]
    pub type Host;

    #[wasm_bindgen(method, js_name = startTeam)]
    fn start_team(this: &Host, count: u32, module: JsValue) -> Promise;

    #[wasm_bindgen(method, js_name = openFiles)]
    fn open_files(this: &Host) -> Promise;

    #[wasm_bindgen(method, js_name = startProfile)]
    fn start_profile(this: &Host);

    #[wasm_bindgen(method, js_name = endProfile)]
    fn end_profile(this: &Host, ops: &JsValue) -> Promise;

    #[cfg(feature = "gpu")]
    #[wasm_bindgen(method)]
    fn kept(this: &Host, key: &str) -> Promise;

    #[cfg(feature = "gpu")]
    #[wasm_bindgen(method)]
    fn keep(this: &Host, key: &str, value: &str) -> Promise;

    #[cfg(feature = "gpu")]
    #[wasm_bindgen(method, js_name = pipelinesAhead)]
    fn pipelines_ahead(this: &Host, make: &mut dyn FnMut()) -> Promise;

    /// `Team` of pool.ts.
    #[derive(Clone)]
    pub type JsTeam;

    #[wasm_bindgen(method, getter)]
    fn link(this: &JsTeam) -> JsLink;

    #[wasm_bindgen(method, getter)]
    fn exchange(this: &JsTeam) -> String;

    #[wasm_bindgen(method)]
    fn ask(this: &JsTeam, kind: &str, body: &JsValue) -> Promise;

    #[wasm_bindgen(method, catch)]
    fn step(
        this: &JsTeam,
        tokens: &[u32],
        pos: u32,
        outputs: u32,
        sequence: u32,
        long_rope: bool,
    ) -> std::result::Result<(), JsValue>;

    #[wasm_bindgen(method)]
    fn fail(this: &JsTeam, reason: &str);

    #[wasm_bindgen(method)]
    fn end(this: &JsTeam);

    /// `Link` of link.ts.
    pub type JsLink;

    #[wasm_bindgen(method, getter)]
    fn index(this: &JsLink) -> u32;

    #[wasm_bindgen(method, getter)]
    fn count(this: &JsLink) -> u32;

    #[wasm_bindgen(method, getter)]
    fn onready(this: &JsLink) -> JsValue;

    #[wasm_bindgen(method, setter)]
    fn set_onready(this: &JsLink, callback: &JsValue);

    #[wasm_bindgen(method, catch)]
    fn send(this: &JsLink, part: &[f32]) -> std::result::Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    fn receive(this: &JsLink) -> std::result::Result<bool, JsValue>;

    #[wasm_bindgen(method)]
    fn part(this: &JsLink, worker: u32) -> Float32Array;
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Takes what the worker's script offers.
pub(super) fn set_host(host: Host) {
    HOST.set(Some(host));
}

fn host() -> Option<Host> {
    HOST.with_borrow(Clone::clone)
}

/// What was asked of the host, once it is there; undefined where it fails, and where there is no host.
async fn given(asked: Option<Promise>) -> JsValue {
    match asked {
        Some(asked) => JsFuture::from(asked).await.unwrap_or_default(),
        None => JsValue::UNDEFINED,
    }
}

/// The files of this origin, where the browser has such.
pub(super) async fn open_files() -> Option<OriginFiles> {
    let files = given(host().map(|host| host.open_files())).await;
    (!files.is_undefined()).then(|| files.unchecked_into())
}

/// Has the worker's script time what runs on the GPU from now on.
pub(super) fn start_profile() {
    if let Some(host) = host() {
        host.start_profile();
    }
}

/// Ends that; where the time went, as `Profile` of types.ts. `ops` are the CPU's.
pub(super) async fn end_profile(ops: Option<Profile>) -> JsValue {
    let ops = ops.map_or(JsValue::UNDEFINED, |profile| encode(&profile.ops));
    given(host().map(|host| host.end_profile(&ops))).await
}

/// What was kept under `key` in this browser, if anything was.
#[cfg(feature = "gpu")]
pub(super) async fn kept(key: &str) -> JsValue {
    given(host().map(|host| host.kept(key))).await
}

/// Keeps a small fact under `key`, if this browser keeps anything; nobody waits for it.
#[cfg(feature = "gpu")]
pub(super) fn keep(key: &str, value: &str) {
    if let Some(host) = host() {
        drop(host.keep(key, value));
    }
}

/// Has the browser compile what `make` asks of a GPU; see `pipelines-ahead.ts`.
#[cfg(feature = "gpu")]
pub(super) fn pipelines_ahead(make: &mut dyn FnMut()) -> Pin<Box<dyn Future<Output = ()>>> {
    let coming = host().map(|host| host.pipelines_ahead(&mut || make()));
    Box::pin(async { drop(given(coming).await) })
}

/// The other workers. They end with it.
pub struct Team {
    js: RefCell<JsTeam>,
    count: Cell<usize>,
    /// Where another number may be better, and whether there is another one than was told.
    watch: RefCell<Option<Watch>>,
    is_new: Cell<bool>,
    /// What they were told and given, to tell it to others in their place.
    model: RefCell<Option<Rc<Model>>>,
    adapters: RefCell<Adapters>,
}

/// What adapters the workers have.
#[derive(Clone, Default)]
struct Adapters {
    /// The requests by which they were loaded.
    loads: Vec<(AdapterId, JsValue)>,
    /// The factors that they have now.
    scales: Vec<(AdapterId, f32)>,
}

/// What workers are given to begin with.
pub(super) struct Model {
    /// As `LoadShard` of shard.rs.
    pub(super) description: JsValue,
    pub(super) files: Rc<Files>,
    pub(super) parts: Vec<FilePart>,
    pub(super) weights: WeightMap,
}

async fn start(count: usize) -> Result<JsTeam> {
    let Some(host) = host() else {
        return Err(Error::new(ErrorCode::WorkerFailed, "this worker cannot start others"));
    };
    // Compiled once for all.
    let started = host.start_team(count as u32, wasm_bindgen::module());
    Ok(JsFuture::from(started).await.map_err(error_of)?.unchecked_into())
}

impl Team {
    /// Starts `count - 1` workers.
    /// # Errors
    /// `WorkerFailed` with the browser's reason.
    pub async fn start(count: usize) -> Result<Rc<Team>> {
        let js = RefCell::new(start(count).await?);
        Ok(Rc::new(Team {
            js,
            count: Cell::new(count),
            watch: RefCell::default(),
            is_new: Cell::default(),
            model: RefCell::default(),
            adapters: RefCell::default(),
        }))
    }

    /// How many workers there are, the leader among them.
    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    /// How many there are, once, where that has changed.
    pub(super) fn changed(&self) -> Option<usize> {
        self.is_new.take().then(|| self.count())
    }

    /// The account of a model whose number of workers was not asked for.
    pub(super) fn watch(&self) -> RefMut<'_, Option<Watch>> {
        self.watch.borrow_mut()
    }

    /// Whether the number of workers is worth a look before a step at `pos`. It stays while there are adapters, which only
    /// the engine could load anew, and where weights would come over the network.
    fn is_due(&self, pos: usize) -> bool {
        let is_due = self.watch().as_ref().is_some_and(|watch| watch.is_due(self.count(), pos));
        let is_here = |model: &Rc<Model>| model.files.all().iter().all(|file| file.is_here());
        is_due && self.adapters.borrow().loads.is_empty() && self.model.borrow().as_ref().is_some_and(is_here)
    }

    /// Takes note of what the workers have been given.
    pub(super) fn keep(&self, model: Model) {
        self.model.replace(Some(Rc::new(model)));
    }

    /// Has the others change their adapters as this worker has, with `answer`, so that they are `scales` now. One that
    /// cannot is replaced at the next step.
    pub(super) async fn change_adapters(
        &self,
        kind: &str,
        body: JsValue,
        answer: &JsValue,
        scales: Vec<(AdapterId, f32)>,
    ) {
        let changed = (self.count() > 1).then(|| self.ask(kind, &body));
        if let Some(id) = answer.as_f64() {
            Reflect::set(&body, &"id".into(), answer).expect("invariant: a request is a plain object");
            self.adapters.borrow_mut().loads.push((id as AdapterId, body));
        }
        {
            let mut adapters = self.adapters.borrow_mut();
            adapters.loads.retain(|(id, _)| scales.iter().any(|(other, _)| other == id));
            adapters.scales = scales;
        }
        if let Some(changed) = changed
            && let Err(error) = changed.await
        {
            self.js().fail(error.message());
        }
    }

    /// Starts new workers in the place of all others, `count` with the leader, and gives them what those had, but for
    /// caches; the leader's weights too, where it has another share now.
    async fn fill(&self, count: usize, mut own: Option<&mut CpuShard>) -> Result<()> {
        self.js().end();
        self.count.set(count);
        let Some(model) = self.model.borrow().clone() else {
            return Err(Error::new(ErrorCode::WorkerFailed, "a worker ended while the model was loaded"));
        };
        let mut loaded = None;
        if count > 1 {
            self.js.replace(start(count).await?);
            Reflect::set(&model.description, &"count".into(), &JsValue::from(count as u32))
                .expect("invariant: a description is a plain object");
            loaded = Some(self.ask("load", &model.description));
        }
        let mut uploader = Uploader::new(&model.weights);
        for FilePart { file: index, index: number, range } in model.parts.clone() {
            let file = model.files.file(index);
            let part = Rc::clone(&file).part(number, range).await?;
            let theirs = match loaded {
                Some(_) => Some(self.ask("part", &part_message(index, &file, &part)?)),
                None => None,
            };
            if let Some(own) = &mut own {
                uploader
                    .upload(&mut **own, index, part.range.clone(), Window::whole(part.bytes.clone()))
                    .await?;
            }
            if let Some(theirs) = theirs {
                theirs.await?;
            }
        }
        if let Some(own) = own {
            uploader.finish(own)?;
        }
        let Some(loaded) = loaded else { return Ok(()) };
        self.ask("part", &JsValue::NULL).await?;
        loaded.await?;
        let Adapters { loads, scales } = self.adapters.borrow().clone();
        for (_, body) in &loads {
            self.ask("loadAdapter", body).await?;
        }
        if !loads.is_empty() {
            self.ask("setAdapters", &encode(&SetAdaptersRequest { scales })).await?;
        }
        Ok(())
    }

    fn js(&self) -> JsTeam {
        self.js.borrow().clone()
    }

    /// `shared` or `messages`: how parts of values travel.
    pub fn exchange(&self) -> String {
        self.js().exchange()
    }

    /// Asks all others at once; the future gives their answers.
    pub fn ask(&self, kind: &str, body: &JsValue) -> impl Future<Output = Result<Array>> + use<> {
        let answers = JsFuture::from(self.js().ask(kind, body));
        async move { Ok(answers.await.map_err(error_of)?.unchecked_into()) }
    }

    /// The leader's way to the others, which begins their steps.
    pub fn link(self: &Rc<Self>) -> WebLink {
        let mut link = WebLink::new(self.js().link());
        link.team = Some(Rc::clone(self));
        link
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.js().end();
    }
}

/// A worker's way to the others.
pub struct WebLink {
    link: JsLink,
    /// What was woken at the link before.
    before: JsValue,
    /// Who waits for parts.
    waker: Rc<RefCell<Option<Waker>>>,
    /// Wakes.
    on_ready: Closure<dyn FnMut()>,
    /// Of the leader.
    team: Option<Rc<Team>>,
    /// A part in wasm memory.
    part: Vec<f32>,
}

impl WebLink {
    /// Of a worker that leads none.
    pub fn new(link: JsLink) -> WebLink {
        let waker = Rc::new(RefCell::new(None::<Waker>));
        let woken = Rc::clone(&waker);
        let on_ready = Closure::new(move || {
            let waker = woken.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        let before = link.onready();
        link.set_onready(on_ready.as_ref());
        WebLink { link, before, waker, on_ready, team: None, part: Vec::new() }
    }
}

impl WebLink {
    /// Has the team's other workers made anew, and goes on with those.
    async fn follow(&mut self, team: Rc<Team>, own: Option<(&mut CpuShard, usize)>) -> Result<()> {
        match own {
            Some((shard, count)) => team.fill(count, Some(shard)).await?,
            None => team.fill(team.count(), None).await?,
        }
        self.link = team.js().link();
        self.link.set_onready(self.on_ready.as_ref());
        Ok(())
    }
}

impl Drop for WebLink {
    /// Whoever waited before waits again.
    fn drop(&mut self) {
        self.link.set_onready(&self.before);
    }
}

impl Link for WebLink {
    fn begin(&mut self, step: Step<'_>) -> Result<()> {
        let Some(team) = self.team.as_deref() else { return Ok(()) };
        let Step { tokens, pos, outputs, sequence, long_rope } = step;
        if let Some(watch) = team.watch().as_mut() {
            watch.begin(tokens.len());
        }
        if team.count() == 1 {
            return Ok(());
        }
        let (pos, sequence) = (pos as u32, sequence as u32);
        team.js().step(tokens, pos, outputs as u32, sequence, long_rope).map_err(error_of)
    }

    fn end(&mut self) {
        if let Some(team) = &self.team
            && let Some(watch) = team.watch().as_mut()
        {
            watch.end(team.count());
        }
    }

    fn revive(&mut self) -> Option<Waiting<'_, Result<()>>> {
        let team = Rc::clone(self.team.as_ref()?);
        Some(Box::pin(self.follow(team, None)))
    }

    fn recount<'a>(&'a mut self, graph: &'a Graph, pos: usize) -> Option<Waiting<'a, Option<usize>>> {
        let team = self.team.as_ref().filter(|team| team.is_due(pos))?;
        // Where that cannot be told, all stays as it is.
        Some(Box::pin(async move { watch::look(team, graph).await.ok().flatten() }))
    }

    fn refill<'a>(&'a mut self, shard: &'a mut CpuShard, count: usize) -> Waiting<'a, Result<()>> {
        let team = self.team.clone().expect("invariant: only the leader recounts");
        team.is_new.set(true);
        Box::pin(self.follow(team, Some((shard, count))))
    }

    fn index(&self) -> usize {
        self.link.index() as usize
    }

    fn send(&mut self, part: &[f32]) -> Result<()> {
        self.link.send(part).map_err(error_of)
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Poll<Result<()>> {
        if !self.link.receive().map_err(error_of)? {
            self.waker.replace(Some(context.waker().clone()));
            return Poll::Pending;
        }
        for worker in (0..self.link.count()).filter(|worker| *worker != self.link.index()) {
            let part = self.link.part(worker);
            self.part.resize(part.length() as usize, 0.0);
            part.copy_to(&mut self.part);
            take(worker as usize, &self.part);
        }
        Poll::Ready(Ok(()))
    }
}

/// What [`Outputs`] travelled as `number`.
pub(super) fn outputs_of(number: u32) -> Outputs {
    [Outputs::None, Outputs::Last, Outputs::All][number.min(2) as usize]
}

/// An error of another worker with its own code; of the workers themselves where it has none.
fn error_of(thrown: JsValue) -> Error {
    let text = |name: &str| Reflect::get(&thrown, &name.into()).ok().and_then(|value| value.as_string());
    let code = text("code").and_then(|code| ErrorCode::ALL.iter().find(|known| known.as_str() == code));
    let message = text("message").unwrap_or_else(|| describe(&thrown));
    let error = Error::new(code.copied().unwrap_or(ErrorCode::WorkerFailed), message);
    match text("field") {
        Some(field) => error.at(field),
        None => error,
    }
}
