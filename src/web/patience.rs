//! How long a server that has gone silent is waited for: before it answers and in the middle of an answer.
//!
//! Principal type: [`Patience`]. Must not know addresses, and does not try again.

use std::cell::Cell;
use std::rc::Rc;

use js_sys::Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{AbortController, AbortSignal, ReadableStreamDefaultReader, RequestInit};

use super::task::sleep;

#[wasm_bindgen]
extern "C" {
    // Safari has it since 17.4.
    #[wasm_bindgen(catch, js_namespace = AbortSignal, js_name = any)]
    fn either(signals: &Array) -> Result<AbortSignal, JsValue>;
}

/// A connection without a byte for so long is as good as cut, in milliseconds.
const STALLED_MS: f64 = 20_000.0;

/// Waits for a server; dropped when what it waits for is over.
pub(super) struct Patience(Rc<Cell<bool>>);

impl Patience {
    /// For an answer: ends a request whose server takes it and never answers, which would hold one of the few connections
    /// that a browser has for a server. Gives the request its signal: the file's, and where the browser can join signals
    /// one of its own.
    pub(super) fn for_answer(file: &AbortSignal, init: &RequestInit) -> Self {
        let waiting = Rc::new(Cell::new(true));
        init.set_signal(Some(file));
        if let Ok(own) = AbortController::new()
            && let Ok(both) = either(&Array::of2(file, &own.signal()))
        {
            init.set_signal(Some(&both));
            let watched = Rc::clone(&waiting);
            spawn_local(async move {
                sleep(STALLED_MS).await;
                if watched.get() {
                    own.abort();
                }
            });
        }
        Self(waiting)
    }

    /// For a body's bytes: cuts a connection that has gone silent, so that it is tried again. The number of bytes received
    /// must grow from one look to the next.
    pub(super) fn for_body(reader: &ReadableStreamDefaultReader, received: &Rc<Cell<u64>>) -> Self {
        let waiting = Rc::new(Cell::new(true));
        let (watched, reader, received) = (Rc::clone(&waiting), reader.clone(), Rc::clone(received));
        spawn_local(async move {
            let mut before = received.get();
            loop {
                sleep(STALLED_MS).await;
                if !watched.get() {
                    return;
                }
                if received.get() == before {
                    // The pending read then ends as if the body had: too few bytes.
                    let _ = reader.cancel();
                    return;
                }
                before = received.get();
            }
        });
        Self(waiting)
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
