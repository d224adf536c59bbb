//! Tokens that the GPU chooses against those that the CPU's sampler draws from the same logits.

use lamplight::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision, Tuning};
use lamplight::backend::{Backend, Draw, Logprobs, Outputs};
use lamplight::error::{ErrorCode, Result};
use lamplight::generate::{Sampler, SamplingParams};
use lamplight::tensor::DType;
use pollster::block_on;

use crate::gpu::{backend, device, model};
use crate::support::{Model, Rng, Shape, graph, shapes};

/// The largest of the vocabularies here.
const MOST: usize = 9001;

fn choose(backend: &mut GpuBackend, token: u32, pos: usize, draw: &Draw, n: usize) -> Result<Vec<u32>> {
    backend.choose(Some((token, pos, draw)), n)?;
    block_on(backend.chosen())
}

/// A model over `n_vocab` tokens with a prompt of 60 tokens in the cache.
fn prompted(
    device: &GpuDevice,
    rng: &mut Rng,
    shape: usize,
    n_vocab: usize,
) -> (Model, GpuBackend, Vec<u32>) {
    let shape = Shape { n_vocab, ..shapes().swap_remove(shape) };
    let model = Model::random(rng, graph(&shape), DType::F32, 120, 67);
    let tuning = Tuning { run_keys: 64, ..Tuning::default() };
    let mut backend = backend(&model, device, Precision::F32, tuning);
    model.upload(rng, &mut backend);
    let prompt = model.random_tokens(rng, 60);
    block_on(backend.forward(&prompt, 0, Outputs::None)).expect("prefill");
    (model, backend, prompt)
}

/// The tokens that the CPU's sampler draws, one after the other, `first` at the end of the prompt.
fn drawn_by_cpu(backend: &mut GpuBackend, params: &SamplingParams, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(params, MOST).expect("settings");
    let mut ids = prompt.to_vec();
    ids.push(1);
    for pos in 60..60 + n {
        let last = &ids[ids.len() - 1..];
        let mut logits = block_on(backend.forward(last, pos, Outputs::Last)).expect("decode");
        ids.push(sampler.sample(&mut logits, &ids).expect("a token"));
    }
    ids.split_off(prompt.len())
}

/// Several a submit, in a vocabulary of several runs of logits too, and with keys in several runs.
#[test]
fn the_largest_logits_are_chosen() {
    let Some(device) = device(GpuOptions::default()) else { return };
    for (shape, n_vocab) in [(0, 101), (5, 3), (1, 9001)] {
        let mut rng = Rng(70 + shape as u64);
        let (_, mut backend, prompt) = prompted(&device, &mut rng, shape, n_vocab);
        let expected = drawn_by_cpu(&mut backend, &SamplingParams::greedy(), &prompt, 10);
        let (mut chosen, mut pos) = (vec![1], 60);
        for n in [1, 2, 7] {
            let before = backend.counters();
            let last = chosen[chosen.len() - 1];
            chosen.extend(choose(&mut backend, last, pos, &Draw::BEST, n).expect("decode"));
            let after = backend.counters();
            let work = [
                after.submits - before.submits,
                after.passes - before.passes,
                after.queue_writes - before.queue_writes,
                after.buffers - before.buffers,
                after.bind_groups - before.bind_groups,
            ];
            assert_eq!(work, [1, 1, 1, 0, 0]);
            assert_eq!(after.readback_bytes - before.readback_bytes, 8 * n as u64);
            pos += n;
        }
        assert_eq!(chosen, expected);
        for (n, pos) in [(0, 60), (17, 60), (2, 119)] {
            let error = choose(&mut backend, 1, pos, &Draw::BEST, n).expect_err("too many steps");
            assert_eq!(error.code(), ErrorCode::InvalidRequest);
        }
    }
}

type Change = fn(&mut SamplingParams);

/// Settings of every kind; temperatures make of one model distributions of every width.
const SETTINGS: [Change; 30] = [
    |_| (),
    |p| p.temperature = 0.2,
    |p| p.temperature = 0.02,
    |p| p.temperature = 50.0,
    |p| p.temperature = f32::MIN_POSITIVE,
    |p| p.top_k = 1,
    |p| p.top_k = 5,
    |p| (p.top_k, p.temperature) = (40, 0.5),
    |p| (p.top_k, p.temperature) = (700, 0.05),
    |p| p.top_k = 100_000,
    |p| (p.top_p, p.temperature) = (0.9, 0.1),
    |p| (p.top_p, p.temperature) = (0.5, 0.05),
    |p| p.top_p = 0.0,
    |p| (p.top_p, p.top_k, p.temperature) = (0.8, 50, 0.6),
    |p| (p.top_p, p.top_k, p.min_p, p.temperature) = (0.95, 64, 0.2, 0.7),
    |p| p.min_p = 0.3,
    |p| (p.min_p, p.top_p) = (1.0, 0.5),
    |p| (p.temperature, p.repetition_penalty) = (0.0, 1.5),
    |p| (p.temperature, p.presence_penalty) = (0.0, 2.0),
    |p| (p.temperature, p.frequency_penalty, p.presence_penalty) = (0.3, 1.5, -0.5),
    |p| (p.top_k, p.repetition_penalty, p.presence_penalty) = (20, 0.7, 1.0),
    |p| (p.temperature, p.top_p, p.repetition_penalty, p.frequency_penalty) = (0.05, 0.7, 1.3, 0.4),
    |p| {
        (p.temperature, p.logit_bias) =
            (0.0, biases(&[(1, 1.5), (2, -0.5), (77, 2.0), (4096, 2.5), (9000, 2.25)]))
    },
    |p| (p.temperature, p.logit_bias) = (0.3, (0..1024).map(|id| (id, (id as f32 * 0.7).sin())).collect()),
    |p| (p.top_k, p.repetition_penalty, p.logit_bias) = (5, 1.8, biases(&[(0, 3.0), (50, 4.0), (8000, 4.0)])),
    |p| (p.temperature, p.allowed_token_ids) = (0.0, Some(vec![0, 2, 33, 95, 100, 4095, 4096, 9000])),
    |p| p.allowed_token_ids = Some(vec![1, 31, 32, 63, 64, 8999]),
    |p| (p.top_p, p.allowed_token_ids) = (0.6, Some((0..9001).step_by(3).collect())),
    |p| (p.top_k, p.presence_penalty, p.allowed_token_ids) = (7, 1.0, Some((0..9001).step_by(2).collect())),
    |p| {
        (p.min_p, p.frequency_penalty, p.repetition_penalty) = (0.1, 0.5, 1.2);
        (p.logit_bias, p.allowed_token_ids) =
            (biases(&[(1, 100.0), (2, 0.5), (64, 0.5)]), Some((2..8000).collect()));
    },
];

fn biases(biases: &[(u32, f32)]) -> Vec<(u32, f32)> {
    biases.to_vec()
}

/// Settings number `index`, with those of the tokens named that a vocabulary has.
fn setting(index: usize, n_vocab: usize) -> SamplingParams {
    let mut params = SamplingParams { seed: Some(0x1_0000_0007 + index as u64), ..SamplingParams::default() };
    SETTINGS[index](&mut params);
    params.logit_bias.retain(|(id, _)| (*id as usize) < n_vocab);
    params.allowed_token_ids.iter_mut().for_each(|ids| ids.retain(|id| (*id as usize) < n_vocab));
    params
}

/// A draw that the GPU cannot be sure of is told and no other; all others are the CPU's.
#[test]
fn draws_are_those_of_the_cpu() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let (mut certain, mut uncertain) = (0, 0);
    for (shape, n_vocab) in [(0, 101), (5, 3), (1, 9001)] {
        let mut rng = Rng(170 + shape as u64);
        let (_, mut backend, prompt) = prompted(&device, &mut rng, shape, n_vocab);
        for index in 0..SETTINGS.len() {
            let params = setting(index, n_vocab);
            let expected = drawn_by_cpu(&mut backend, &params, &prompt, 24);
            let mut sampler = Sampler::new(&params, MOST).expect("settings");
            let mut ids = prompt.clone();
            ids.push(1);
            while ids.len() < prompt.len() + expected.len() {
                let n_left = prompt.len() + expected.len() - ids.len();
                let (last, before) = (ids[ids.len() - 1], ids.len() - 1);
                let draw = sampler.draw(&ids[..before], last);
                let drawn = choose(&mut backend, last, before, &draw, n_left.min(9)).expect("decode");
                certain += drawn.len();
                drawn.iter().for_each(|id| sampler.accept(*id));
                let short = drawn.len() < n_left.min(9);
                ids.extend(drawn);
                if short {
                    uncertain += 1;
                    let (last, pos) = (&ids[ids.len() - 1..], ids.len() - 1);
                    let mut logits = block_on(backend.forward(last, pos, Outputs::Last)).expect("decode");
                    ids.push(sampler.sample(&mut logits, &ids).expect("a token"));
                }
            }
            assert_eq!(ids[prompt.len()..], expected, "vocabulary of {n_vocab}, setting {index}");
        }
    }
    assert!(uncertain * 20 < certain, "{uncertain} uncertain draws to {certain}");
}

/// Limits are written when a draw begins, and what it may draw can be another at each beginning, as a grammar wants it.
#[test]
fn a_beginning_brings_its_own_limits() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let (_, mut backend, _) = prompted(&device, &mut Rng(79), 1, MOST);
    let before = backend.counters();
    for id in [5, 4100, 0, 9000, 31] {
        let params = SamplingParams { allowed_token_ids: Some(vec![id]), ..SamplingParams::greedy() };
        let draw = Sampler::new(&params, MOST).expect("settings").draw(&[], 1);
        assert_eq!(choose(&mut backend, 1, 60, &draw, 3).expect("steps"), [id; 3]);
    }
    let after = backend.counters();
    assert_eq!(after.queue_writes - before.queue_writes, 5 * 3, "the step, how to draw, and the limits");
    // None that has a logit is allowed: it is for the CPU to say so.
    let none = Draw { allowed: Some(vec![0; MOST.div_ceil(32)].into()), ..Draw::BEST };
    assert_eq!(choose(&mut backend, 1, 60, &none, 2).expect("nothing certain"), [] as [u32; 0]);
    assert_eq!(choose(&mut backend, 1, 60, &Draw::BEST, 1).expect("a step").len(), 1);
}

/// Of the logits as the model gives them, whatever is done to them afterwards; a few bytes a token are read back.
#[test]
fn log_probabilities_are_those_of_the_cpu() {
    let Some(device) = device(GpuOptions::default()) else { return };
    for (shape, n_vocab) in [(0, 101), (5, 3), (1, MOST)] {
        let (_, mut backend, _) = prompted(&device, &mut Rng(270 + shape as u64), shape, n_vocab);
        for (index, n) in [(0, 20), (1, 5), (10, 1), (17, 20), (24, 0), (29, 20), (29, 7)] {
            for temperature in [0.0, 1.0] {
                let params = SamplingParams { top_logprobs: Some(n), temperature, ..setting(index, n_vocab) };
                let draw = Sampler::new(&params, n_vocab).expect("settings").draw(&[], 1);
                let before = backend.counters().readback_bytes;
                let ids = choose(&mut backend, 1, 60, &draw, 5).expect("steps");
                assert_eq!(backend.counters().readback_bytes - before, 5 * (8 + 168));
                let found = backend.take_logprobs();
                assert_eq!(found.len(), ids.len());
                let mut last = 1;
                for (pos, (found, id)) in found.iter().zip(&ids).enumerate() {
                    let logits = block_on(backend.forward(&[last], 60 + pos, Outputs::Last)).expect("decode");
                    let expected = Logprobs::of(&logits, *id, n as usize);
                    let named = |list: &[(u32, f32)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
                    assert_eq!(named(&found.top), named(&expected.top), "vocabulary of {n_vocab}, {index}");
                    assert_eq!(found.top.len(), n_vocab.min(n as usize));
                    let pairs = found.top.iter().zip(&expected.top).map(|((_, a), (_, b))| (*a, *b));
                    for (a, b) in pairs.chain([(found.drawn, expected.drawn)]) {
                        assert!((a - b).abs() < 2e-5, "{a} is not {b}");
                    }
                    last = *id;
                }
            }
        }
        choose(&mut backend, 1, 60, &Draw::BEST, 5).expect("steps");
        assert_eq!(backend.take_logprobs(), []);
    }
}

/// Penalties are put on, and weights summed up, where the largest logit is looked for; then weights are summed, or candidates
/// collected, and one is drawn: at most six dispatches beside the layers.
#[test]
fn a_draw_takes_one_dispatch_more_than_the_best_token() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let (_, mut backend, prompt) = prompted(&device, &mut Rng(77), 0, 101);
    let params =
        SamplingParams { seed: Some(3), top_p: 0.9, presence_penalty: 0.3, ..SamplingParams::default() };
    let draw = Sampler::new(&params, MOST).expect("settings").draw(&prompt, 1);
    assert!(draw.changes() && draw.orders(101));
    let told = Draw { top: Some(20), ..draw.clone() };
    let plain = Draw { top_p: 1.0, ..draw.clone() };
    assert!(plain.changes() && !plain.orders(101));
    let [told, drawn, plain, best] = [told, draw, plain, Draw::BEST].map(|draw| {
        let before = backend.counters().dispatches;
        choose(&mut backend, 1, 60, &draw, 1).expect("a step");
        backend.counters().dispatches - before
    });
    // Two layers of six; embedding, norm of the output, head; the largest logit of each run, and of all.
    assert_eq!(best, 2 * 6 + 5);
    assert_eq!((drawn, plain), (best + 1, best + 1));
    assert_eq!(told, drawn + 2, "the most probable tokens of each run, and of all");
}

/// The second submit goes on where the first ends, and is given up by whatever else is run.
#[test]
fn steps_are_begun_before_the_last_are_waited_for() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(73);
    let (_, mut backend, prompt) = prompted(&device, &mut rng, 0, 101);
    let params = SamplingParams {
        seed: Some(3),
        top_k: 30,
        frequency_penalty: 0.3,
        repetition_penalty: 1.2,
        ..SamplingParams::default()
    };
    let expected = drawn_by_cpu(&mut backend, &params, &prompt, 12);
    let draw = Sampler::new(&params, MOST).expect("settings").draw(&prompt, 1);
    for n in [[2, 4, 5], [5, 1, 3], [1, 1, 1]] {
        let before = backend.counters();
        backend.choose(Some((1, 60, &draw)), n[0]).expect("begin");
        backend.choose(None, n[1]).expect("go on");
        assert_eq!(backend.choose(None, 1).expect_err("two are under way").code(), ErrorCode::Internal);
        let mut chosen = block_on(backend.chosen()).expect("first");
        backend.choose(None, n[2]).expect("go on");
        chosen.extend(block_on(backend.chosen()).expect("second"));
        chosen.extend(block_on(backend.chosen()).expect("third"));
        let n_steps: usize = n.iter().sum();
        assert_eq!(chosen, expected[1..=n_steps]);
        let after = backend.counters();
        assert_eq!((after.submits - before.submits, after.queue_writes - before.queue_writes), (3, 2));
        assert_eq!((after.buffers, after.bind_groups), (before.buffers, before.bind_groups));
        // Given up by a step, by a new beginning, and by nobody waiting.
        backend.choose(Some((1, 60, &draw)), 3).expect("begin");
        backend.choose(None, 3).expect("go on");
        block_on(backend.forward(&[1], 60, Outputs::Last)).expect("a step");
        assert_eq!(block_on(backend.chosen()).expect_err("given up").code(), ErrorCode::Internal);
        backend.choose(Some((1, 60, &draw)), 2).expect("begin");
        backend.choose(None, 2).expect("go on");
        drop(backend.chosen());
    }
    assert_eq!(choose(&mut backend, 1, 60, &draw, 9).expect("steps"), expected[1..=9]);
}

/// As the CPU's sampler, the GPU does not hide that a computation went wrong: it says so, or leaves it to the CPU.
#[test]
fn logits_without_a_finite_number_are_told() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(71);
    let mut model = model(&mut rng, DType::F32, 0);
    for element in model.bytes[0].chunks_exact_mut(4) {
        element.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let mut backend = backend(&model, &device, Precision::F32, Tuning::default());
    model.upload(&mut rng, &mut backend);
    let error = choose(&mut backend, 1, 0, &Draw::BEST, 3).expect_err("no number");
    assert_eq!(error.code(), ErrorCode::Internal);
    for index in 0..SETTINGS.len() {
        let params = setting(index, 101);
        let draw = Sampler::new(&params, MOST).expect("settings").draw(&[], 1);
        assert_eq!(choose(&mut backend, 1, 0, &draw, 3).expect("nothing certain"), [] as [u32; 0]);
    }
    let beyond = [
        Draw { scale: 1.0, top_k: 100, ..Draw::BEST },
        Draw { seen: vec![(1, 1); Draw::MAX_SEEN + 1], ..Draw::BEST },
        Draw { bias: vec![(1, 1.0); Draw::MAX_BIASES + 1], ..Draw::BEST },
    ];
    assert_eq!(beyond.map(|draw| backend.chooses(&draw)), [16, 0, 0]);
}

/// Loaded, asked and dropped a hundred times, half of them with steps under way: nothing stays, also as the driver counts.
#[test]
fn dropped_models_leave_no_memory() {
    let Some(device) = device(GpuOptions::default()) else { return };
    let mut rng = Rng(74);
    let model = model(&mut rng, DType::Q4_1, 0);
    let mut after_first = None;
    for cycle in 0..100 {
        let mut backend = backend(&model, &device, Precision::F32, Tuning::default());
        model.upload(&mut rng, &mut backend);
        assert_eq!(device.held_bytes(), backend.memory_bytes());
        let draw = Draw { scale: 1.0, floor: -100.0, min_p: -200.0, top_k: 10, ..Draw::BEST };
        block_on(backend.forward(&[1, 2, 3], 0, Outputs::Last)).expect("forward");
        backend.choose(Some((4, 3, &draw)), 2).expect("begin");
        backend.choose(None, 2).expect("go on");
        if cycle % 2 == 0 {
            block_on(backend.chosen()).expect("tokens");
            block_on(backend.chosen()).expect("tokens");
        }
        drop(backend);
        assert_eq!(device.held_bytes(), 0);
        block_on(device.finished()).expect("idle");
        let bytes = device.driver_bytes();
        assert_eq!(*after_first.get_or_insert(bytes), bytes, "after {cycle} models");
    }
}
