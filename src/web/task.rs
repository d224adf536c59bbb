//! Small async tools of the worker: tasks that run beside the caller, a turn for the event loop, timers, SHA-256.
//!
//! Principal type: [`Task`]. Must not know models, storage or messages.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use js_sys::{Function, Promise, Reflect, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: f64) -> JsValue;

    // Absent on insecure pages: then the call throws, and is caught.
    #[wasm_bindgen(catch, js_namespace = ["crypto", "subtle"], js_name = digest)]
    fn subtle_digest(algorithm: &str, data: &Uint8Array) -> Result<Promise, JsValue>;
}

/// A future that runs whether or not it is awaited; awaiting gives its value.
#[derive(Debug)]
pub struct Task<T>(Rc<RefCell<Slot<T>>>);

#[derive(Debug)]
struct Slot<T> {
    /// Until it is awaited.
    value: Option<T>,
    /// Of who awaits it.
    waker: Option<Waker>,
}

impl<T: 'static> Task<T> {
    /// Starts `future`.
    pub fn spawn(future: impl Future<Output = T> + 'static) -> Self {
        let (task, finish) = Self::pending();
        spawn_local(async move { finish(future.await) });
        task
    }

    /// A task that ends when the returned function is called.
    pub fn pending() -> (Self, impl FnOnce(T) + 'static) {
        let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
        let filled = Rc::clone(&slot);
        let finish = move |value| {
            let waker = {
                let mut slot = filled.borrow_mut();
                slot.value = Some(value);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        (Self(slot), finish)
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Waits at least this long.
pub async fn sleep(milliseconds: f64) {
    let promise = Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, milliseconds);
    });
    // A timer's promise is never rejected.
    let _ = JsFuture::from(promise).await;
}

/// A port whose messages come back as tasks of the event loop. Timers would do too, but browsers hold nested ones back
/// for 4 ms, which at 100 tokens a second is a third of the time.
struct Turnstile {
    /// Where messages are posted; they come back at the other end.
    port: web_sys::MessagePort,
    /// Who asked for a turn since the last message.
    waiting: Rc<RefCell<Vec<Waker>>>,
    /// Keeps the handler alive.
    _on_message: Closure<dyn FnMut()>,
}

impl Turnstile {
    fn new() -> Option<Self> {
        let channel = web_sys::MessageChannel::new().ok()?;
        let waiting = Rc::new(RefCell::new(Vec::<Waker>::new()));
        let wake = Rc::clone(&waiting);
        let on_message = Closure::new(move || {
            let wakers = std::mem::take(&mut *wake.borrow_mut());
            wakers.into_iter().for_each(Waker::wake);
        });
        channel.port1().set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        Some(Self { port: channel.port2(), waiting, _on_message: on_message })
    }
}

thread_local! {
    static TURNSTILE: Option<Turnstile> = Turnstile::new();
}

/// Gives the event loop a turn, so that messages (an abort) get in.
pub async fn event_loop_turn() {
    let asked = Cell::new(false);
    let has_channel = std::future::poll_fn(|context| {
        if asked.replace(true) {
            return Poll::Ready(true);
        }
        TURNSTILE.with(|turnstile| match turnstile {
            Some(turnstile) if turnstile.port.post_message(&JsValue::NULL).is_ok() => {
                turnstile.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(false),
        })
    })
    .await;
    if !has_channel {
        sleep(0.0).await;
    }
}

/// SHA-256 in lower-case hex, of bytes that stay outside of the wasm memory where the browser can hash them itself.
pub async fn sha256_hex(bytes: &Uint8Array) -> String {
    let digest = match subtle_digest("SHA-256", bytes) {
        Ok(promise) => JsFuture::from(promise).await.ok().map(|buffer| Uint8Array::new(&buffer).to_vec()),
        Err(_) => None,
    };
    match digest {
        Some(digest) => hex(&digest),
        // Insecure pages have no `crypto.subtle`.
        None => {
            let mut hash = Sha256::new();
            update_sha256(&mut hash, bytes);
            hex(&hash.finalize())
        }
    }
}

/// Hashes bytes that stay outside of the wasm memory but for a slice at a time.
pub fn update_sha256(hash: &mut Sha256, bytes: &Uint8Array) {
    const SLICE: u32 = 1 << 16;
    for start in (0..bytes.length()).step_by(SLICE as usize) {
        hash.update(bytes.subarray(start, bytes.length().min(start + SLICE)).to_vec());
    }
}

/// In lower-case hex.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Current size of the wasm memory in bytes. It never shrinks, so this is its highest mark too.
pub fn wasm_memory_bytes() -> u64 {
    let memory: js_sys::WebAssembly::Memory = wasm_bindgen::memory().unchecked_into();
    let buffer: js_sys::ArrayBuffer = memory.buffer().unchecked_into();
    u64::from(buffer.byte_length())
}

/// What this worker's navigator has by a name; `undefined` where it has none.
pub fn navigator(name: &str) -> JsValue {
    let get = |object: &JsValue, name: &str| Reflect::get(object, &name.into()).unwrap_or_default();
    get(&get(&js_sys::global(), "navigator"), name)
}

/// A short text of whatever was thrown.
pub fn describe(thrown: &JsValue) -> String {
    match thrown.dyn_ref::<js_sys::Error>() {
        Some(error) => format!("{}: {}", String::from(error.name()), String::from(error.message())),
        None => thrown.as_string().unwrap_or_else(|| format!("{thrown:?}")),
    }
}
