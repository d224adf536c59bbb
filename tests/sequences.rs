//! Several texts in one engine, each in a KV cache of its own: conversations in turns go on where they were, with the tokens
//! of engines that have nothing else to do.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

use lamplight::backend::cpu::{CpuMode, Sharding};
use lamplight::backend::{AnyBackend, Backend, Outputs};
use lamplight::engine::native::{BackendOptions, load};
use lamplight::engine::{
    AdapterFile, CompletionRequest, Engine, LoadOptions, NoPause, Prompt, SamplingParams,
};
use lamplight::error::{ErrorCode, Result};
use pollster::block_on;

const N_CTX: usize = 400;
const N_BATCH: usize = 16;
/// Tokens of a reply.
const N_REPLY: usize = 5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn try_open(name: &str, backend: BackendOptions, n_sequences: usize) -> Result<Engine<AnyBackend>> {
    let options = LoadOptions {
        n_ctx: Some(N_CTX),
        n_batch: Some(N_BATCH),
        n_sequences: Some(n_sequences),
        ..LoadOptions::default()
    };
    block_on(load(&golden(name), backend, options))
}

fn open(name: &str, backend: BackendOptions, n_sequences: usize) -> Engine<AnyBackend> {
    try_open(name, backend, n_sequences).unwrap()
}

/// All that there are here.
fn backends() -> Vec<BackendOptions> {
    let sharding = Sharding { threads: 2, least: 0 };
    let mut backends = vec![
        BackendOptions::Cpu(CpuMode::Exact),
        BackendOptions::Cpu(CpuMode::Fast),
        BackendOptions::CpuPool(CpuMode::Fast, sharding),
    ];
    #[cfg(feature = "gpu")]
    {
        let gpu = BackendOptions::Gpu(Some(lamplight::backend::gpu::Precision::F32));
        match try_open("smollm2/model.gguf", gpu, 1) {
            Ok(_) => backends.push(gpu),
            Err(error) => {
                let required = std::env::var_os("LAMPLIGHT_REQUIRE_GPU").is_some_and(|it| !it.is_empty());
                assert!(error.code() == ErrorCode::GpuUnavailable && !required, "{error}");
                println!("SKIPPED the GPU: {error}");
            }
        }
    }
    backends
}

/// A text that grows by turns.
struct Conversation {
    ids: Vec<u32>,
}

impl Conversation {
    /// All begin with the same four tokens.
    fn new(n: usize, seed: u32) -> Conversation {
        let own = (4..n as u32).map(|index| (index * 37 + seed * 101) % 250 + 3);
        Conversation { ids: [7, 8, 9, 10].into_iter().chain(own).collect() }
    }

    /// The next turn: how many tokens were computed already, and the reply, which becomes part of the text with two more.
    fn turn(&mut self, engine: &mut Engine<AnyBackend>) -> (usize, Vec<u32>) {
        // No end of turn: all replies are equally long.
        let never = engine.tokenizer().end_tokens().iter().map(|id| (*id, -100.0)).collect();
        let sampling = SamplingParams {
            max_tokens: Some(N_REPLY as u32),
            logit_bias: never,
            ..SamplingParams::greedy()
        };
        let request = CompletionRequest { prompt: Prompt::Ids(self.ids.clone()), sampling };
        let outcome = block_on(engine.complete(request, &NoPause, |_| ())).unwrap();
        assert_eq!(outcome.ids.len(), N_REPLY);
        self.ids.extend_from_slice(&outcome.ids);
        self.ids.extend([11, 12]);
        (outcome.usage.cached_tokens, outcome.ids)
    }

    /// Tokens that a turn leaves behind: of the reply, the last is not computed.
    fn kept(&self) -> usize {
        self.ids.len() - 3
    }
}

/// Conversations of these lengths in turns, against engines of their own.
fn check_turns(name: &str, lengths: [usize; 2]) {
    for backend in backends() {
        let mut shared = open(name, backend, 2);
        let mut pairs = lengths.map(|n| {
            let new = || Conversation::new(n, n as u32);
            (new(), new(), open(name, backend, 1))
        });
        for turn in 0..3 {
            for (in_shared, in_own, own) in &mut pairs {
                let kept = if turn == 0 { 0 } else { in_shared.kept() };
                let (cached, reply) = in_shared.turn(&mut shared);
                assert_eq!(cached, kept, "{name} on {backend:?}, turn {turn}");
                assert_eq!((cached, reply), in_own.turn(own), "{name} on {backend:?}, turn {turn}");
            }
        }
    }
}

#[test]
fn conversations_in_turns_go_on_where_they_were() {
    check_turns("smollm2/model.gguf", [40, 30]);
}

/// Of these the states are kept besides, which cannot go back.
#[test]
fn recurrent_models_remember_each_text() {
    for name in ["hf/rwkv7_native", "rwkv6_gguf/model.gguf", "hf/qwen35", "hf/lfm2"] {
        check_turns(name, [40, 30]);
    }
}

#[test]
fn layers_with_windows_keep_of_each_text_what_they_show() {
    check_turns("hf/gemma3", [340, 50]);
}

/// The first becomes long in its second turn and is computed anew, at its beginning or in the middle of it; the other stays
/// short.
#[test]
fn texts_are_rotated_by_their_own_lengths() {
    for (backend, first) in backends().into_iter().flat_map(|backend| [(backend, 58), (backend, 55)]) {
        let mut shared = open("hf/phi35mini", backend, 2);
        let mut pairs = [first, 20].map(|n| {
            let new = || Conversation::new(n, n as u32);
            (new(), new(), open("hf/phi35mini", backend, 1))
        });
        for turn in 0..4 {
            for (in_shared, in_own, own) in &mut pairs {
                let before = in_shared.ids.len();
                let (cached, reply) = in_shared.turn(&mut shared);
                assert_eq!((cached, reply), in_own.turn(own), "{backend:?}, turn {turn} of {before}");
                assert_eq!(cached > 0, turn > 0 && before != 65, "{backend:?}, turn {turn} of {before}");
            }
        }
    }
}

/// A third conversation takes the room of the one that was used longest ago.
#[test]
fn the_oldest_makes_room() {
    for backend in backends() {
        let mut engine = open("smollm2/model.gguf", backend, 2);
        let [mut one, mut two, mut three] = [1, 2, 3].map(|seed| Conversation::new(40, seed));
        one.turn(&mut engine);
        two.turn(&mut engine);
        assert_eq!(one.turn(&mut engine).0, one.kept() - N_REPLY - 2);
        // As much as all begin with.
        assert_eq!(three.turn(&mut engine).0, 4);
        assert_eq!(one.turn(&mut engine).0, one.kept() - N_REPLY - 2);
        assert_eq!(two.turn(&mut engine).0, 4);
        assert_eq!(three.turn(&mut engine).0, 4, "it was third again");
    }
}

/// What was computed without an adapter is of no use with it, whichever text it is of.
#[test]
fn adapters_change_all_texts() {
    let name = "llama31/model.gguf";
    let file = fs::read(golden("lora/one.gguf")).unwrap();
    for backend in backends() {
        let mut engine = open(name, backend, 2);
        let new = || [1, 2].map(|seed| Conversation::new(30, seed));
        let adapt = |engine: &mut Engine<AnyBackend>| {
            block_on(engine.load_adapter(AdapterFile::Gguf(&file), 4.0)).unwrap()
        };
        let plain = new().map(|mut text| text.turn(&mut engine));
        let id = adapt(&mut engine);
        let adapted = new().map(|mut text| text.turn(&mut engine));
        let fresh = new().map(|mut text| {
            let mut engine = open(name, backend, 1);
            adapt(&mut engine);
            text.turn(&mut engine)
        });
        assert_eq!(adapted, fresh, "{backend:?}");
        assert_ne!(adapted, plain, "{backend:?}: the adapter changes nothing");
        block_on(engine.remove_adapter(id)).unwrap();
        assert_eq!(new().map(|mut text| text.turn(&mut engine)), plain, "{backend:?}");
    }
}

/// Each sequence has positions of its own to go back to, and those that are not used take no memory.
#[test]
fn sequences_have_nothing_to_do_with_each_other() {
    for backend in backends() {
        let mut engine = open("hf/gemma3", backend, 3);
        let memory = |engine: &Engine<AnyBackend>| engine.session().backend().memory_bytes();
        let alone = memory(&open("hf/gemma3", backend, 1));
        assert_eq!(memory(&engine), alone, "{backend:?}");
        let ids = Conversation::new(350, 1).ids;
        let steps = engine.session_mut().backend_mut();
        let mut last = Vec::new();
        for start in (0..340).step_by(10) {
            last = block_on(steps.forward(&ids[start..start + 10], start, Outputs::Last)).unwrap();
        }
        let earliest = steps.earliest();
        assert!(earliest > 0, "{backend:?}: nothing was forgotten");
        steps.select(2);
        assert_eq!(steps.earliest(), 0, "{backend:?}");
        block_on(steps.forward(&[5, 6, 7], 0, Outputs::Last)).unwrap();
        steps.select(0);
        assert_eq!(steps.earliest(), earliest, "{backend:?}");
        let again = block_on(steps.forward(&ids[330..340], 330, Outputs::Last)).unwrap();
        assert_eq!(again, last, "{backend:?}");
        assert!(memory(&engine) > alone, "{backend:?}");
    }
}

#[test]
fn impossible_numbers_of_sequences_are_typed_errors() {
    for n_sequences in [0, 17] {
        let error = try_open("smollm2/model.gguf", backends()[0], n_sequences).err().unwrap();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("sequences")));
    }
}
