//! What a session computes, and what not, with a backend whose logits are those of its tokens or of none.

use pollster::block_on;

use super::*;
use crate::backend::StepOrder;
use crate::generate::test_backend::{HashBackend, StopAfter, expected_logits};

fn session(n_ctx: usize, n_batch: usize) -> Session<HashBackend> {
    Session::new(HashBackend::new(n_ctx, n_batch), HashBackend::shape(n_ctx, n_batch))
}

/// Whatever is left of the other rotation would be seen: the test's backend makes nothing of it.
#[test]
fn a_text_that_becomes_long_is_computed_anew() {
    let backend = HashBackend::new(64, 4);
    let shape = SessionShape { long_rope_beyond: Some(9), ..HashBackend::shape(64, 4) };
    let mut session = Session::new(backend, shape);
    let mut ids = vec![3, 1, 2];
    block_on(session.prefill(&ids, &NoPause, |_| ())).unwrap();
    while ids.len() < 14 {
        let id = ids.len() as u32;
        ids.push(id);
        assert_eq!(block_on(session.decode(id)).unwrap(), expected_logits(&ids), "{} tokens", ids.len());
        assert_eq!(session.tokens(), ids);
    }
    // Three chunks hold the ten tokens that came to be rotated anew; other tokens are one step each.
    assert_eq!(session.backend().counters().steps, 1 + 6 + 3 + 4);
    let short = block_on(session.prefill(&ids[..5], &NoPause, |_| ())).unwrap().unwrap();
    assert_eq!((short.logits, short.n_cached), (expected_logits(&ids[..5]), 0));
    let all = block_on(session.logits(&ids[..10], true, &NoPause)).unwrap().unwrap();
    assert_eq!(all[9 * HashBackend::N_VOCAB..], expected_logits(&ids[..10]));
    // Stopped while it is computed anew.
    block_on(session.prefill(&ids[..9], &NoPause, |_| ())).unwrap();
    assert_eq!(block_on(session.append(9, &StopAfter::new(1))).unwrap(), None);
    assert_eq!(
        block_on(session.prefill(&ids, &NoPause, |_| ())).unwrap().unwrap().logits,
        expected_logits(&ids)
    );
}

#[test]
fn prefill_in_chunks_gives_the_logits_of_the_whole() {
    let ids: Vec<u32> = (0..37).map(|i| i * 7 % 31).collect();
    for n_batch in [1, 5, 16, 64] {
        let mut session = session(64, n_batch);
        let mut progress = Vec::new();
        let prefilled = block_on(session.prefill(&ids, &NoPause, |n| progress.push(n))).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(&ids));
        assert_eq!(prefilled.n_cached, 0);
        assert_eq!(progress.len(), ids.len().div_ceil(n_batch));
        assert_eq!(progress.last(), Some(&37));
        assert_eq!(session.tokens(), ids);
    }
}

#[test]
fn a_common_beginning_is_not_computed_again() {
    let mut session = session(64, 8);
    let run = |session: &mut Session<HashBackend>, ids: &[u32]| {
        let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(ids));
        prefilled.n_cached
    };
    assert_eq!(run(&mut session, &[1, 2, 3, 4]), 0);
    assert_eq!(block_on(session.decode(5)).unwrap(), expected_logits(&[1, 2, 3, 4, 5]));
    assert_eq!(run(&mut session, &[1, 2, 3, 4, 5, 6, 7]), 5);
    assert_eq!(run(&mut session, &[1, 2, 9]), 2);
    assert_eq!(run(&mut session, &[1, 2, 9]), 2, "the last token is always computed");
    assert_eq!(run(&mut session, &[2]), 0);
}

/// Two conversations in turns, of which the second begins like the first; a third takes the room of the older one.
#[test]
fn each_text_goes_on_where_it_was() {
    let shape = SessionShape { n_sequences: 2, ..HashBackend::shape(64, 8) };
    let mut session = Session::new(HashBackend::new(64, 8), shape);
    let mut run = |ids: &[u32]| {
        let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(ids));
        assert_eq!(session.tokens(), ids);
        prefilled.n_cached
    };
    let (mut one, mut other) = (vec![1, 2, 3, 4], vec![1, 2, 5, 6]);
    assert_eq!((run(&one), run(&other)), (0, 0));
    for token in 7..12 {
        one.push(token);
        other.push(token + 7);
        assert_eq!((run(&one), run(&other)), (one.len() - 1, other.len() - 1));
    }
    assert_eq!(run(&[20, 21, 22]), 0, "a third");
    other.push(30);
    assert_eq!(run(&other), other.len() - 1, "was used later than the first");
    assert_eq!(run(&one), 0);
    // All logits, computed anew, take the room of the third.
    let all = block_on(session.logits(&other, true, &NoPause)).unwrap().unwrap();
    assert_eq!(all[(other.len() - 1) * HashBackend::N_VOCAB..], expected_logits(&other));
    one.push(3);
    let prefilled = block_on(session.prefill(&one, &NoPause, |_| ())).unwrap().unwrap();
    assert_eq!((prefilled.n_cached, prefilled.logits), (one.len() - 1, expected_logits(&one)));
}

/// A short text stays of use beside one that is rotated otherwise.
#[test]
fn each_text_has_its_own_rotation() {
    let shape = SessionShape { n_sequences: 2, long_rope_beyond: Some(6), ..HashBackend::shape(64, 8) };
    let mut session = Session::new(HashBackend::new(64, 8), shape);
    let (mut short, mut long) = (vec![1, 2, 3], vec![9; 6]);
    let run = |session: &mut Session<HashBackend>, ids: &[u32]| {
        let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(ids));
        prefilled.n_cached
    };
    assert_eq!((run(&mut session, &short), run(&mut session, &long)), (0, 0));
    // Becomes long by a token, in its own place.
    assert_eq!(block_on(session.decode(9)).unwrap(), expected_logits(&[9; 7]));
    long.push(9);
    for token in 4..7 {
        short.push(token);
        assert_eq!(run(&mut session, &short), short.len() - 1);
        long.push(token);
        assert_eq!(run(&mut session, &long), long.len() - 1);
    }
}

#[test]
fn all_logits_are_those_of_every_prefix() {
    let ids: Vec<u32> = (0..20).map(|i| i * 5 % 31).collect();
    let mut session = session(32, 6);
    let all = block_on(session.logits(&ids, true, &NoPause)).unwrap().unwrap();
    let expected: Vec<f32> = (1..=ids.len()).flat_map(|n| expected_logits(&ids[..n])).collect();
    assert_eq!(all, expected);
    let last = block_on(session.logits(&ids, false, &NoPause)).unwrap().unwrap();
    assert_eq!(last, expected_logits(&ids));
}

#[test]
fn wrong_prompts_are_refused_with_their_place() {
    let mut session = session(8, 8);
    for (ids, code, field) in [
        (&[][..], ErrorCode::InvalidRequest, "prompt"),
        (&[1, 99], ErrorCode::InvalidRequest, "prompt[1]"),
        (&[1; 9], ErrorCode::ContextLengthExceeded, "prompt"),
    ] {
        let error = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap_err();
        assert_eq!((error.code(), error.field()), (code, Some(field)));
        let error = block_on(session.logits(ids, true, &NoPause)).unwrap_err();
        assert_eq!((error.code(), error.field()), (code, Some(field)));
    }
    block_on(session.prefill(&[1; 8], &NoPause, |_| ())).unwrap();
    assert_eq!(block_on(session.decode(1)).unwrap_err().code(), ErrorCode::ContextLengthExceeded);
}

#[test]
fn stopping_and_failing_leave_a_usable_session() {
    let ids: Vec<u32> = (0..20).collect();
    let mut session = session(32, 4);
    assert_eq!(block_on(session.prefill(&ids, &StopAfter::new(2), |_| ())).unwrap(), None);
    assert_eq!(session.tokens(), &ids[..8], "two chunks were done");
    session.backend.fail_at_step = Some(session.backend.counters().steps + 1);
    assert!(block_on(session.prefill(&ids, &NoPause, |_| ())).is_err());
    assert_eq!(session.tokens(), &ids[..12], "one more chunk was done before the failing one");
    let prefilled = block_on(session.prefill(&ids, &NoPause, |_| ())).unwrap().unwrap();
    assert_eq!((prefilled.n_cached, prefilled.logits), (12, expected_logits(&ids)));
}

/// The backend refuses, as those do whose caches keep what windows show, to go far back.
#[test]
fn a_forgotten_beginning_is_computed_again() {
    let mut session = session(64, 4);
    session.backend.order = Sequences::new(vec![StepOrder::forgetting(6)]);
    let mut ids: Vec<u32> = (1..=20).collect();
    let mut run = |ids: &[u32]| {
        let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(ids));
        prefilled.n_cached
    };
    assert_eq!(run(&ids), 0);
    ids[15] = 29;
    assert_eq!(run(&ids), 15);
    ids[13] = 28;
    assert_eq!(run(&ids), 0, "only what comes after 14 is there, as 20 were written");
    assert_eq!(run(&ids[..15]), 14);
}

/// The backend refuses, as recurrent ones do, whatever is neither a beginning nor a continuation.
#[test]
fn recurrent_models_go_on_or_start_anew() {
    let mut session = session(64, 4);
    session.shape.rewinds = false;
    session.backend.order = Sequences::new(vec![StepOrder::new(true)]);
    let run = |session: &mut Session<HashBackend>, ids: &[u32]| {
        let prefilled = block_on(session.prefill(ids, &NoPause, |_| ())).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(ids));
        prefilled.n_cached
    };
    assert_eq!(run(&mut session, &[1, 2, 3, 4, 5]), 0);
    assert_eq!(block_on(session.decode(6)).unwrap(), expected_logits(&[1, 2, 3, 4, 5, 6]));
    assert_eq!(run(&mut session, &[1, 2, 3, 4, 5, 6, 7, 8]), 6);
    assert_eq!(run(&mut session, &[1, 2, 3, 4, 5, 6, 7, 8]), 0, "the last logits are not kept");
    assert_eq!(run(&mut session, &[1, 2, 3, 9]), 0);
    session.backend.fail_at_step = Some(session.backend.counters().steps + 1);
    assert!(block_on(session.prefill(&[1, 2, 3, 9, 4, 5, 6, 7, 8], &NoPause, |_| ())).is_err());
    assert_eq!(
        session.tokens(),
        &[] as &[u32],
        "the state is neither that of the chunk before nor of the next"
    );
    assert_eq!(run(&mut session, &[1, 2, 3, 9, 4]), 0);
    let longer = [1, 2, 3, 9, 4, 5, 6, 7, 8, 10];
    assert_eq!(block_on(session.prefill(&longer, &StopAfter::new(1), |_| ())).unwrap(), None);
    assert_eq!(session.tokens(), &longer[..9], "a whole chunk stays of use");
    assert_eq!(run(&mut session, &longer), 9);
}

#[test]
fn the_first_chunk_is_short_when_there_is_a_budget() {
    struct Hurried;
    impl Pause for Hurried {
        async fn pause(&self) -> bool {
            true
        }
    }
    let ids: Vec<u32> = (0..30).collect();
    let mut session = session(64, 16);
    let mut progress = Vec::new();
    let prefilled = block_on(session.prefill(&ids, &Hurried, |n| progress.push(n))).unwrap().unwrap();
    assert_eq!(progress[0], 4);
    assert_eq!(prefilled.logits, expected_logits(&ids));
}

/// Each step is a submit that nothing interrupts: on a slow device it has fewer tokens.
#[test]
fn steps_are_short_on_a_slow_device() {
    struct Hurried;
    impl Pause for Hurried {
        async fn pause(&self) -> bool {
            true
        }
    }
    let ids: Vec<u32> = (0..120).map(|i| i % 31).collect();
    let mut session = session(128, 64);
    for milliseconds in [5, 12] {
        let backend = session.backend_mut();
        (backend.slow, backend.largest_step) = (std::time::Duration::from_millis(milliseconds), 0);
        let prefilled = block_on(session.prefill(&ids, &Hurried, |_| ())).unwrap().unwrap();
        assert_eq!(prefilled.logits, expected_logits(&ids));
        session.backend_to_change();
        let largest = session.backend().largest_step;
        assert!(largest as u64 * milliseconds <= 100, "{largest} tokens of {milliseconds} ms");
    }
}
