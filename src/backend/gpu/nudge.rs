//! Waiting where the browser looks for finished GPU work only now and then: Firefox does every 100 ms, or when something is
//! submitted (Mozilla bug 1870699).
//!
//! Principal function: [`nudging`]. Must not know what is waited for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// Gives others a few milliseconds; whoever asks for a device knows how.
pub type Turn = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Waits, and nudges after every turn in which nothing came.
pub(super) async fn nudging<T>(awaited: impl Future<Output = T>, turn: Turn, mut nudge: impl FnMut()) -> T {
    let mut awaited = pin!(awaited);
    loop {
        let mut turn = turn();
        let next = poll_fn(|context| match awaited.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => turn.as_mut().poll(context).map(|()| None),
        });
        if let Some(value) = next.await {
            return value;
        }
        nudge();
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_comes_at_once_needs_no_nudge() {
        let value = pollster::block_on(nudging(async { 7 }, || Box::pin(async {}), || panic!("nudged")));
        assert_eq!(value, 7);
    }

    #[test]
    fn what_comes_by_nudges_is_nudged_until_it_comes() {
        let nudges = Cell::new(0);
        let awaited = poll_fn(|_| match nudges.get() {
            3 => Poll::Ready("here"),
            _ => Poll::Pending,
        });
        let value =
            pollster::block_on(nudging(awaited, || Box::pin(async {}), || nudges.set(nudges.get() + 1)));
        assert_eq!((value, nudges.get()), ("here", 3));
    }
}
