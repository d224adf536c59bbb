//! The engine as a gloo-worker actor: requests come in, run one after the other, and are answered.
//!
//! Principal type: [`EngineActor`]. The page speaks gloo's envelope itself (`pkg/src/client.ts`), so that it needs no
//! wasm. Knows the kinds of requests, and leaves the work to `load` and the engine.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use gloo_worker::{Codec, HandlerId, Registrable, Worker, WorkerScope};
use js_sys::Array;
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::DedicatedWorkerGlobalScope;

use super::pool::{Host, Team, set_host};
use super::protocol::{Raw, Reply, Request, encode, object};
use super::request::Abort;
use super::serve;
use crate::backend::AnyBackend;
use crate::engine::Engine;

/// Messages as plain objects. What cannot be read becomes an input of its own, which the actor answers with an error:
/// gloo would have it panic.
#[derive(Debug)]
pub struct PlainObjects;

impl Codec for PlainObjects {
    fn encode<I: Serialize>(input: I) -> JsValue {
        encode(&input)
    }

    fn decode<O: for<'de> Deserialize<'de>>(input: JsValue) -> O {
        serde_wasm_bindgen::from_value(input).unwrap_or_else(|_| {
            let nothing = Array::of2(&0.into(), &JsValue::UNDEFINED);
            let substitute = object([("ProcessInput", nothing.into())]);
            serde_wasm_bindgen::from_value(substitute)
                .expect("invariant: an input of any value is one of gloo's messages")
        })
    }
}

/// A request that waits for its turn.
struct Job {
    request: Request,
    /// Also in [`Shared::aborts`], so that it can be stopped while it waits.
    abort: Rc<Abort>,
    out: Out,
}

/// What all requests of the worker share.
#[derive(Default)]
pub struct Shared {
    /// Absent until a model is loaded, and while a request runs.
    engine: RefCell<Option<Engine<AnyBackend>>>,
    /// The other workers that the engine runs on.
    team: RefCell<Option<Rc<Team>>>,
    waiting: RefCell<VecDeque<Job>>,
    /// Whether [`run`] is at work.
    running: Cell<bool>,
    /// Of requests that run or wait.
    aborts: RefCell<HashMap<u32, Rc<Abort>>>,
}

impl Shared {
    /// Takes the engine for the time of a request.
    pub fn take_engine(&self) -> Option<Engine<AnyBackend>> {
        self.engine.take()
    }

    /// Puts an engine in place.
    pub fn put_engine(&self, engine: Engine<AnyBackend>) {
        self.engine.replace(Some(engine));
    }

    /// The other workers that the engine runs on.
    pub fn team(&self) -> Option<Rc<Team>> {
        self.team.borrow().clone()
    }

    /// Puts the workers of an engine in place.
    pub fn put_team(&self, team: Option<Rc<Team>>) {
        self.team.replace(team);
    }

    /// Stops the request `target`; one that is done already is no error.
    pub fn abort(&self, target: u32) {
        let abort = self.aborts.borrow().get(&target).cloned();
        if let Some(abort) = abort {
            abort.abort();
        }
    }
}

/// The way back to the page.
#[derive(Clone)]
pub struct Out {
    scope: WorkerScope<EngineActor>,
    handler: HandlerId,
}

impl Out {
    /// Answers.
    pub fn send(&self, reply: &Reply) {
        self.scope.respond(self.handler, Raw(reply.to_js()));
    }

    /// Answers, and gives the memory of `buffer` away with it. gloo has no transfer lists, so this posts its envelope
    /// by hand.
    pub fn send_with_buffer(&self, reply: &Reply, buffer: &JsValue) {
        let output = Array::of2(&encode(&self.handler), &reply.to_js());
        let envelope = object([("ProcessOutput", output.into())]);
        let posted = scope().post_message_with_transfer(&envelope, &Array::of1(buffer));
        if posted.is_err() {
            self.send(reply);
        }
    }
}

/// This worker's global scope; the module is only ever started in one.
fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// The worker.
pub struct EngineActor {
    shared: Rc<Shared>,
}

impl Worker for EngineActor {
    type Message = ();
    type Input = Raw;
    type Output = Raw;

    fn create(_scope: &WorkerScope<Self>) -> Self {
        Self { shared: Rc::default() }
    }

    fn update(&mut self, _scope: &WorkerScope<Self>, (): ()) {}

    fn received(&mut self, scope: &WorkerScope<Self>, Raw(message): Raw, handler: HandlerId) {
        let out = Out { scope: scope.clone(), handler };
        let request = match Request::decode(message) {
            Ok(request) => request,
            Err((id, error)) => return out.send(&Reply::Error(id, error)),
        };
        if serve::is_immediate(&request.kind) {
            let shared = Rc::clone(&self.shared);
            spawn_local(async move {
                let reply = serve::immediate(&shared, request).await;
                out.send(&reply);
            });
            return;
        }
        let abort = Rc::new(Abort::default());
        self.shared.aborts.borrow_mut().insert(request.id, Rc::clone(&abort));
        self.shared.waiting.borrow_mut().push_back(Job { request, abort, out });
        run(&self.shared);
    }
}

/// Runs the waiting requests one after the other.
fn run(shared: &Rc<Shared>) {
    if shared.running.replace(true) {
        return;
    }
    let shared = Rc::clone(shared);
    spawn_local(async move {
        loop {
            // Not in the loop's head: the borrow would last as long as the request.
            let job = shared.waiting.borrow_mut().pop_front();
            let Some(Job { request, abort, out }) = job else { break };
            let id = request.id;
            serve::serve(&shared, request, &abort, &out).await;
            shared.aborts.borrow_mut().remove(&id);
        }
        shared.running.set(false);
    });
}

/// Starts the actor on this worker's message port (`worker.ts` calls it once the module is there).
#[wasm_bindgen]
pub fn start(host: Host) {
    set_host(host);
    std::panic::set_hook(Box::new(|panic| {
        console_error_panic_hook::hook(panic);
        // A panic in a task is not an "error" event by itself, and nothing works after it.
        let failed = format!("the worker failed: {panic}");
        let _ = scope().post_message(&object([("failed", failed.into())]));
    }));
    EngineActor::registrar().encoding::<PlainObjects>().register();
}
