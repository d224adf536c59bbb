//! Asking the page for another address when a server refuses one: signed links run out.
//!
//! Principal type: [`Resolver`]. Must not know what is at an address.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde::Deserialize;
use wasm_bindgen::JsValue;

use super::protocol::object;
use crate::error::{Error, ErrorCode, Result};

/// Body of `resolved`: an address, or why there is none.
#[derive(Deserialize)]
pub(super) struct Resolved {
    ask: u32,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

thread_local! {
    /// Questions under way, with their answers once they are there.
    static ASKED: RefCell<HashMap<u32, Option<Resolved>>> = RefCell::default();
    static NEXT: Cell<u32> = const { Cell::new(1) };
}

/// Takes the page's answer; one that nobody waits for any more is no error.
pub(super) fn answered(answer: Resolved) {
    ASKED.with_borrow_mut(|asked| {
        if let Some(slot) = asked.get_mut(&answer.ask) {
            *slot = Some(answer);
        }
    });
}

/// A page that knows addresses.
#[derive(Clone)]
pub struct Resolver(Rc<dyn Fn(JsValue)>);

impl Resolver {
    /// `send` posts an event of the running request.
    pub fn new(send: Rc<dyn Fn(JsValue)>) -> Self {
        Resolver(send)
    }

    /// Asks for another address of what was at `url` and was answered with `status`.
    pub(super) fn ask(&self, url: &str, status: u16) -> Question {
        let ask = NEXT.replace(NEXT.get().wrapping_add(1));
        ASKED.with_borrow_mut(|asked| asked.insert(ask, None));
        let (url, status) = (JsValue::from(url), JsValue::from(status));
        (self.0)(object([("kind", "resolve".into()), ("ask", ask.into()), ("url", url), ("status", status)]));
        Question(ask)
    }
}

/// A question to the page.
pub(super) struct Question(u32);

impl Question {
    /// The answer, if it has come.
    pub(super) fn answer(&self) -> Option<Result<String>> {
        let Resolved { url, error, .. } =
            ASKED.with_borrow_mut(|asked| asked.get_mut(&self.0).and_then(Option::take))?;
        Some(url.ok_or_else(|| {
            let why = error.unwrap_or_default();
            Error::new(ErrorCode::HttpStatus, format!("resolveUrl gave no other address: {why}"))
        }))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        ASKED.with_borrow_mut(|asked| asked.remove(&self.0));
    }
}
