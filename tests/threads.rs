//! One model on several threads, each with its own rows of the weights: the same logits, to the last bit, as on one.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Context, Poll};

use lamplight::backend::cpu::{CpuMode, CpuShard, Link, Sharding, Waiting};
use lamplight::backend::{AnyBackend, Backend, Outputs};
use lamplight::engine::native::{self, BackendOptions, load};
use lamplight::engine::{Engine, LoadOptions, Loading, fill};
use lamplight::error::ErrorCode;
use lamplight::model::graph::{Graph, Op, WeightKind};
use lamplight::model::shard::{Split, shard};
use lamplight::quant;
use pollster::block_on;

#[path = "common/golden.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod golden;

fn open(path: &Path, backend: BackendOptions) -> Engine<AnyBackend> {
    let options = LoadOptions { n_ctx: Some(64), ..LoadOptions::default() };
    block_on(load(path, backend, options)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Bits of the logits of all tokens: a prompt at once, a second chunk, single tokens.
fn logits(engine: &mut Engine<AnyBackend>, ids: &[u32], causal: bool) -> Vec<u32> {
    let backend = engine.session_mut().backend_mut();
    let ends = if causal { vec![0, 13, 20, 21, 22, 23] } else { vec![0, 23] };
    let steps = ends
        .windows(2)
        .map(|ends| block_on(backend.forward(&ids[ends[0]..ends[1]], ends[0], Outputs::All)).unwrap());
    steps.flatten().map(f32::to_bits).collect()
}

/// Every set on several threads, with all matrices spread that can be, against one thread.
fn check_models(mode: CpuMode) {
    let mut wrong = Vec::new();
    for set in golden::sets() {
        let (path, causal) = (set.model(), set.golden.causal);
        let mut one = open(&path, BackendOptions::Cpu(mode));
        let n_vocab = one.summary().n_vocab as u32;
        // Ids all over the table, so that all of its shares are read.
        let ids: Vec<u32> = (0..23).map(|index| (index * 7919 + 3) % n_vocab).collect();
        let expected = logits(&mut one, &ids, causal);
        for threads in [2, 3, 4] {
            let mut several = open(&path, BackendOptions::CpuPool(mode, Sharding { threads, least: 0 }));
            let found = logits(&mut several, &ids, causal);
            let n_apart = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            if n_apart > 0 || found.len() != expected.len() {
                wrong.push(format!("{} on {threads} threads: {n_apart} logits apart", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_sets_are_the_same_with_exact_kernels() {
    check_models(CpuMode::Exact);
}

#[test]
fn all_sets_are_the_same_with_fast_kernels() {
    check_models(CpuMode::Fast);
}

fn graph(path: &Path) -> Graph {
    let (_, model) = block_on(native::open(path)).unwrap();
    Loading::new(model, LoadOptions::default()).unwrap().plan().graph
}

/// Who shares with nobody has nothing to tell anybody, and all weights.
#[test]
fn one_shard_is_the_whole() {
    for path in golden::sets().iter().map(golden::Set::model) {
        let whole = graph(&path);
        let one = shard(&whole, Split { index: 0, count: 1, least: 0 });
        assert_eq!(one.graph.ops.len(), whole.ops.len(), "{}", path.display());
        assert!(!one.graph.ops.iter().any(|op| matches!(op, Op::Exchange(_))), "{}", path.display());
        assert_eq!(one.graph.weights, whole.weights, "{}", path.display());
    }
}

/// Leads no others, and thinks better of that at position `at`.
struct Recounts {
    loading: Rc<Loading>,
    path: PathBuf,
    at: usize,
    n_refills: Rc<Cell<usize>>,
}

impl Link for Recounts {
    fn index(&self) -> usize {
        0
    }

    fn recount<'a>(&'a mut self, _: &'a Graph, pos: usize) -> Option<Waiting<'a, Option<usize>>> {
        (pos == self.at).then(|| Box::pin(async { Some(1_usize) }) as Waiting<'a, Option<usize>>)
    }

    fn refill<'a>(
        &'a mut self,
        shard: &'a mut CpuShard,
        count: usize,
    ) -> Waiting<'a, lamplight::error::Result<()>> {
        Box::pin(async move {
            assert_eq!(count, 1);
            self.n_refills.set(self.n_refills.get() + 1);
            let (files, _) = native::open(&self.path).await?;
            fill(shard, &self.loading, &files).await
        })
    }

    fn send(&mut self, _: &[f32]) -> lamplight::error::Result<()> {
        unreachable!("there is nobody")
    }

    fn poll_receive(
        &mut self,
        _: &mut Context<'_>,
        _: &mut dyn FnMut(usize, &[f32]),
    ) -> Poll<lamplight::error::Result<()>> {
        unreachable!("there is nobody")
    }
}

/// A shard that is filled anew in the middle of a text goes on with the same text, and its counters with theirs.
#[test]
fn a_recount_changes_nothing_of_the_text() {
    for name in ["hf/llama31", "hf/mixtral"] {
        let path = golden::dir().join(name);
        let expected = logits(
            &mut open(&path, BackendOptions::Cpu(CpuMode::Fast)),
            &(0..23).collect::<Vec<u32>>(),
            true,
        );
        let (files, model) = block_on(native::open(&path)).unwrap();
        let loading =
            Rc::new(Loading::new(model, LoadOptions { n_ctx: Some(64), ..LoadOptions::default() }).unwrap());
        let n_refills = Rc::new(Cell::new(0));
        let link = Recounts { loading: Rc::clone(&loading), path, at: 21, n_refills: Rc::clone(&n_refills) };
        let split = Split { index: 0, count: 1, least: 0 };
        let mut shard = CpuShard::new(loading.plan(), CpuMode::Fast, split, Box::new(link)).unwrap();
        block_on(fill(&mut shard, &loading, &files)).unwrap();
        let ids: Vec<u32> = (0..23).collect();
        let mut found = Vec::new();
        for ends in [0, 13, 20, 21, 22, 23].windows(2) {
            let before = shard.counters().steps;
            let step = block_on(shard.forward(&ids[ends[0]..ends[1]], ends[0], Outputs::All)).unwrap();
            found.extend(step.into_iter().map(f32::to_bits));
            assert!(shard.counters().steps > before);
        }
        assert_eq!(n_refills.get(), 1);
        assert!(found == expected, "{name}");
    }
}

/// Of several texts the one that is worked on goes on then, and the others are said to be forgotten until they begin anew.
#[test]
fn a_recount_forgets_the_other_texts() {
    let path = golden::dir().join("hf/llama31");
    let (files, model) = block_on(native::open(&path)).unwrap();
    let options = LoadOptions { n_ctx: Some(64), n_sequences: Some(3), ..LoadOptions::default() };
    let loading = Rc::new(Loading::new(model, options).unwrap());
    let link = Recounts { loading: Rc::clone(&loading), path, at: 7, n_refills: Rc::default() };
    let split = Split { index: 0, count: 1, least: 0 };
    let mut shard = CpuShard::new(loading.plan(), CpuMode::Fast, split, Box::new(link)).unwrap();
    block_on(fill(&mut shard, &loading, &files)).unwrap();
    let step =
        |shard: &mut CpuShard, ids: &[u32], pos| block_on(shard.forward(ids, pos, Outputs::Last)).unwrap();
    let expected = step(&mut shard, &[1, 2, 3, 4, 5, 6, 8, 9], 0);
    shard.select(1);
    step(&mut shard, &[3, 4, 5], 0);
    shard.select(2);
    step(&mut shard, &[1, 2, 3, 4, 5, 6, 8], 0);
    assert_eq!(step(&mut shard, &[9], 7), expected, "it was computed again");
    assert_eq!(shard.earliest(), 0);
    for sequence in [0, 1] {
        shard.select(sequence);
        assert_eq!(shard.earliest(), usize::MAX);
        assert_eq!(step(&mut shard, &[1, 2, 3, 4, 5, 6, 8, 9], 0), expected);
        assert_eq!(shard.earliest(), 0);
    }
}

/// For each weight of `whole` how often its rows (elements) are held by `count` shards.
fn times_held(whole: &Graph, count: usize) -> Vec<Vec<usize>> {
    let mut times: Vec<Vec<usize>> = whole
        .weights
        .iter()
        .map(|weight| vec![0; if weight.kind == WeightKind::Vector { weight.n_cols } else { weight.n_rows }])
        .collect();
    for index in 0..count {
        for held in shard(whole, Split { index, count, least: 0 }).held {
            for run in times[held.weight.0].chunks_exact_mut(held.run_len) {
                run[held.start..held.start + held.len].iter_mut().for_each(|times| *times += 1);
            }
        }
    }
    times
}

#[test]
fn shards_hold_all_rows_of_all_models() {
    for path in golden::sets().iter().map(golden::Set::model) {
        let whole = graph(&path);
        for count in [2, 3, 4] {
            for (weight, times) in whole.weights.iter().zip(times_held(&whole, count)) {
                let held = times.iter().all(|times| (1..=count).contains(times));
                assert!(held, "{}: {} over {count}: {times:?}", path.display(), weight.name);
            }
        }
    }
}

/// A plain decoder is held once, and its shards meet four times a layer. A mixture's experts are all cut.
#[test]
fn no_matrix_is_held_twice() {
    for (name, count) in [("hf/llama31", 2), ("hf/stablelm2_1b6", 3), ("hf/mixtral", 2)] {
        let whole = graph(&golden::dir().join(name));
        for (weight, times) in whole.weights.iter().zip(times_held(&whole, count)) {
            let once = weight.kind == WeightKind::Vector || times.iter().all(|times| *times == 1);
            assert!(once, "{name}: {} over {count}: {times:?}", weight.name);
        }
        if name == "hf/llama31" {
            let ops = shard(&whole, Split { index: 0, count, least: 0 }).graph.ops;
            let exchanges = ops.iter().filter(|op| matches!(op, Op::Exchange(_))).count();
            // The embeddings and the logits.
            assert_eq!(exchanges, 4 * whole.kv.len() + 2);
        }
    }
}

/// What all shards of a real model hold together is little more than the model: the norms, which each has.
#[test]
fn all_shards_together_hold_a_model_once() {
    let Some(path) = std::env::var_os("LAMPLIGHT_MODEL") else {
        println!("SKIPPED: LAMPLIGHT_MODEL names no model");
        return;
    };
    let (_, model) = block_on(native::open(Path::new(&path))).unwrap();
    let plan = Loading::new(model, LoadOptions::default()).unwrap().plan();
    let bytes = |weight: usize, len: usize| {
        let (decl, format) = (&plan.graph.weights[weight], quant::format(plan.dtypes[weight]));
        let elements = if decl.kind == WeightKind::Vector { len } else { len * decl.n_cols };
        elements / format.block_len * format.block_bytes
    };
    let whole: usize = plan
        .graph
        .weights
        .iter()
        .enumerate()
        .map(|(index, decl)| {
            bytes(index, if decl.kind == WeightKind::Vector { decl.n_cols } else { decl.n_rows })
        })
        .sum();
    // More than it has key heads hold some of those twice.
    for count in [2, 3] {
        let shards = (0..count).map(|index| {
            let held = shard(&plan.graph, Split { index, count, least: 1 << 15 }).held;
            held.iter().map(|held| bytes(held.weight.0, held.n_runs * held.len)).sum::<usize>()
        });
        let (together, largest) = shards.fold((0, 0), |(sum, most), one| (sum + one, most.max(one)));
        assert!(together as f64 <= 1.02 * whole as f64, "{together} of {whole} bytes over {count}");
        assert!((largest * count) as f64 <= 1.15 * whole as f64, "one of {count} holds {largest} of {whole}");
    }
}

/// A request that is refused leaves the threads as they were.
#[test]
fn refused_steps_change_nothing() {
    let sharding = Sharding { threads: 3, least: 0 };
    let mut engine =
        open(&golden::dir().join("smollm2/model.gguf"), BackendOptions::CpuPool(CpuMode::Fast, sharding));
    let ids: Vec<u32> = (3..26).collect();
    let before = logits(&mut engine, &ids, true);
    let backend = engine.session_mut().backend_mut();
    for (tokens, pos) in [(&ids[..0], 0), (&ids[..], 60), (&[u32::MAX][..], 0)] {
        let error = block_on(backend.forward(tokens, pos, Outputs::Last)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
    }
    assert_eq!(logits(&mut engine, &ids, true), before);
}

#[test]
fn impossible_numbers_of_threads_are_typed_errors() {
    for threads in [0, 1, 65] {
        let backend = BackendOptions::CpuPool(CpuMode::Fast, Sharding::over(threads));
        let result =
            block_on(load(&golden::dir().join("smollm2/model.gguf"), backend, LoadOptions::default()));
        let error = result.err().unwrap();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("threads")));
    }
}
