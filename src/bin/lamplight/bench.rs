//! `lamplight bench`: speed of prefill and decoding, and what a decoded token costs.

use std::collections::VecDeque;

use lamplight::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision};
use lamplight::backend::{AnyBackend, Backend, Counters, Draw, MOST_BEGUN, OpTime, Outputs, Profile};
use lamplight::engine::native;
use lamplight::error::{Error, ErrorCode, Result};
use lamplight::generate::{argmax, metrics};
use lamplight::weights::Recipe;
use serde_json::{Map, Value, json};
use web_time::Instant;

use super::common::{ModelArgs, print, print_json};
use super::synthetic;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The model is a name, such as llama-3.2-1b, and its weights are random ones in the format of --quantize
    #[arg(long)]
    synthetic: bool,
    /// Lengths of the prompts to prefill, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "128,512")]
    pp: Vec<usize>,
    /// Numbers of tokens to decode, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "64")]
    tg: Vec<usize>,
    /// Positions of the context that decoded tokens look back on; they hold nothing in particular
    #[arg(long, default_value_t = 0)]
    depth: usize,
    /// Times each is measured; the median is reported
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// Where the time goes, op by op on the CPU (of decoded tokens), kernel by kernel on the GPU, instead of speeds
    #[arg(long)]
    profile: bool,
    /// Measure the ways to compute a product on the GPU in the format of --quantize (q4_k if not given) and print them,
    /// instead of speeds; those that a web page takes come first
    #[arg(long)]
    tune: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    for (name, lengths) in [("--pp", &args.pp), ("--tg", &args.tg)] {
        if lengths.contains(&0) {
            return Err(Error::new(ErrorCode::InvalidRequest, "a length of 0 cannot be measured").at(name));
        }
    }
    if args.tune {
        return tune(args);
    }
    let longest = args.pp.iter().chain(&args.tg).max().copied().unwrap_or(1);
    let n_ctx = args.depth + longest + 1;
    if args.synthetic {
        let (name, n_batch) = (args.model.model.to_string_lossy(), args.model.batch.unwrap_or(N_BATCH));
        let (n_ctx, quantize) = (args.model.ctx.unwrap_or(n_ctx), args.model.quantize.as_deref());
        let (mut plan, bytes) = synthetic::plan(&name, quantize, n_ctx, n_batch.min(n_ctx))?;
        plan.kv_cache = args.model.kv_format()?;
        let (n_vocab, n_batch) = (plan.graph.weights[0].n_rows, plan.n_batch);
        let options = args.model.backend_options()?;
        let mut backend = pollster::block_on(native::make_backend(plan.clone(), options))?;
        synthetic::fill(&plan, &mut backend)?;
        return measure(args, &mut backend, (n_vocab, n_batch), Some(bytes));
    }
    let mut engine = args.model.load(Some(n_ctx))?;
    let sizes = (engine.summary().n_vocab, engine.session().n_batch());
    measure(args, engine.session_mut().backend_mut(), sizes, None)
}

/// Prints what [`GpuDevice::tune`] finds.
fn tune(args: &Args) -> Result<()> {
    let dtype = Recipe::named(args.model.quantize.as_deref().unwrap_or("q4_k"))?.to();
    let device = pollster::block_on(GpuDevice::request(GpuOptions::default()))?;
    let precision = if device.info().shader_f16 { Precision::F16 } else { Precision::F32 };
    let tuned = pollster::block_on(device.tune(dtype, precision, true))?;
    if args.json {
        return print_json(&json!({ "adapter": device.info(), "tuned": tuned }));
    }
    print(&format!("{}\n", tuned.replace("; ", "\n")))
}

/// Most tokens of a prefill step of a synthetic model, as of others.
const N_BATCH: usize = 512;

/// Measures `backend` and prints; `bytes` of weights are read for each decoded token, where that is known.
fn measure(
    args: &Args,
    backend: &mut AnyBackend,
    (n_vocab, n_batch): (usize, usize),
    bytes: Option<u64>,
) -> Result<()> {
    let longest = args.pp.iter().chain(&args.tg).max().copied().unwrap_or(1);
    let (tokens, depth, reps) = (tokens(longest, n_vocab), args.depth, args.reps.max(1));
    if args.profile {
        return profile(args, backend, &tokens, n_batch);
    }
    let mut bench = Bench { backend, n_batch, tokens, depth, reps };
    // The first steps compile, fault pages in and wake the clock up.
    bench.prefill(args.pp.iter().min().copied().unwrap_or(1))?;
    bench.decode(2)?;
    let pp = bench.measure(&args.pp, Bench::prefill)?;
    let before = bench.backend.counters();
    let tg = bench.measure(&args.tg, Bench::decode)?;
    let counters = metrics::difference(bench.backend.counters(), before);
    let backend = args.model.backend.as_str();
    match args.json {
        true => {
            let mut report = report(pp, tg, counters, backend);
            if let Some(bytes) = bytes {
                report["weight_bytes"] = json!(bytes);
            }
            print_json(&report)
        }
        false => {
            let mut text = table(&pp, &tg, counters, backend);
            if let Some(bytes) = bytes {
                text += &format!("weights          {:10.2} MB read per decoded token\n", bytes as f64 / 1e6);
            }
            print(&text)
        }
    }
}

/// Prints where the time of the longest stretch of decoded tokens goes.
fn profile(args: &Args, backend: &mut AnyBackend, tokens: &[u32], n_batch: usize) -> Result<()> {
    let n = args.tg.iter().max().copied().unwrap_or(1);
    let backend = match backend {
        AnyBackend::Cpu(backend) => backend,
        AnyBackend::Gpu(backend) => return profile_gpu(args, backend, tokens, n_batch),
        _ => {
            let message = "the CPU backend tells the time of each op on one thread only";
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("--profile"));
        }
    };
    backend.profile(true);
    for (index, token) in tokens[..n].iter().enumerate() {
        let step = backend.forward(std::slice::from_ref(token), args.depth + index, Outputs::Last);
        let logits = pollster::block_on(step)?;
        backend.reuse(logits);
        // The first step brings pages and caches into order.
        if index == 0 && n > 1 {
            backend.profile(true);
        }
    }
    let profile = backend.profile(false).unwrap_or_default();
    let bandwidth = read_bandwidth();
    if args.json {
        let report = json!({ "steps": profile.steps, "read_bytes_per_s": bandwidth, "ops": profile.ops });
        return print_json(&report);
    }
    let measured = format!("memory is read at {:.2} GB/s by one thread\n", bandwidth / 1e9);
    print(&(profile_table(profile, bandwidth) + &measured))
}

/// Prints where the time of the shortest prompt goes and that of decoded tokens behind it, by kernel and the GPU's clock.
/// Where it has no time stamps each launch is waited for, which costs as much as a short kernel.
fn profile_gpu(args: &Args, backend: &mut GpuBackend, tokens: &[u32], n_batch: usize) -> Result<()> {
    let n_prompt = args.pp.iter().min().copied().unwrap_or(1);
    let n = args.tg.iter().min().copied().unwrap_or(1).min(tokens.len());
    let mut profiles = [Profile::default(), Profile::default()];
    let prompt = [(&tokens[..n_prompt], args.depth); 2];
    let decoded =
        tokens[..n].iter().enumerate().map(|(at, token)| (std::slice::from_ref(token), args.depth + at));
    for (index, (text, pos)) in prompt.into_iter().chain(decoded).enumerate() {
        // The first steps compile and bring pages into order.
        let profile = &mut profiles[usize::from(index > 1)];
        if index == 1 || index == 2 && n > 1 {
            *profile = Profile::default();
        }
        for (at, step) in text.chunks(n_batch).enumerate() {
            let is_last = (at + 1) * n_batch >= text.len();
            let outputs = if is_last { Outputs::Last } else { Outputs::None };
            let times = pollster::block_on(backend.profile_step(step, pos + at * n_batch, outputs))?;
            times.iter().for_each(|(name, seconds, bytes)| profile.add(name, *seconds, *bytes));
        }
        profile.steps += 1;
    }
    let bandwidth = pollster::block_on(backend.device().copy_bandwidth())?;
    if args.json {
        let [prefill, decode] =
            profiles.map(|profile| json!({ "steps": profile.steps, "kernels": profile.ops }));
        let report = json!({ "prefill": prefill, "decode": decode, "copy_bytes_per_s": bandwidth,
            "time_stamps": backend.device().has_clock() });
        return print_json(&report);
    }
    let [prefill, decode] = profiles.map(|profile| profile_table(profile, bandwidth));
    let clock =
        if backend.device().has_clock() { "time stamps of the GPU" } else { "waiting for each launch" };
    let measured =
        format!("copies move {:.2} GB/s, reading and writing; times are by {clock}\n", bandwidth / 1e9);
    print(&format!(
        "a prompt of {n_prompt} tokens (a step below)\n{prefill}\na decoded token\n{decode}{measured}"
    ))
}

/// Bytes that one thread reads from memory in a second: the best of a few passes over more than the caches hold.
fn read_bandwidth() -> f64 {
    const BYTES: usize = 256 << 20;
    let words = vec![1u64; BYTES / size_of::<u64>()];
    let pass = || {
        let start = Instant::now();
        let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        assert_eq!(std::hint::black_box(sum), words.len() as u64);
        BYTES as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

fn profile_table(mut profile: Profile, bandwidth: f64) -> String {
    let steps = profile.steps.max(1) as f64;
    let seconds: f64 = profile.ops.iter().map(|op| op.seconds).sum();
    let bytes: u64 = profile.ops.iter().map(|op| op.bytes).sum();
    profile.ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let mut text = String::from(
        "op                                 us/step     share   MB/step       GB/s     of peak\n",
    );
    let total = OpTime { name: "all".into(), calls: 0, seconds, bytes };
    for op in profile.ops.iter().chain([&total]) {
        let (us, share) = (1e6 * op.seconds / steps, 100.0 * op.seconds / seconds);
        text += &format!("{:32} {us:10.1}  {share:6.1}%", op.name);
        if op.bytes > 0 {
            let rate = op.bytes as f64 / op.seconds;
            let megabytes = op.bytes as f64 / 1e6 / steps;
            text += &format!(" {megabytes:10.3} {:9.2} {:10.1}%", rate / 1e9, 100.0 * rate / bandwidth);
        }
        text += "\n";
    }
    text
}

/// Any tokens do, as long as they differ.
fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + 11) % n_vocab) as u32).collect()
}

struct Bench<'a> {
    backend: &'a mut AnyBackend,
    n_batch: usize,
    tokens: Vec<u32>,
    depth: usize,
    reps: usize,
}

impl Bench<'_> {
    /// Median tokens per second for each length.
    fn measure(
        &mut self,
        lengths: &[usize],
        run: fn(&mut Self, usize) -> Result<f64>,
    ) -> Result<Vec<(usize, f64)>> {
        let mut rates = Vec::new();
        for n in lengths {
            let mut ms: Vec<f64> = (0..self.reps).map(|_| run(self, *n)).collect::<Result<_>>()?;
            ms.sort_by(f64::total_cmp);
            rates.push((*n, metrics::per_second(*n, ms[ms.len() / 2])));
        }
        Ok(rates)
    }

    /// Milliseconds for a prompt of `n` tokens in an empty context, its last logits included.
    fn prefill(&mut self, n: usize) -> Result<f64> {
        let (backend, n_batch) = (&mut *self.backend, self.n_batch);
        let start = Instant::now();
        for pos in (0..n).step_by(n_batch) {
            let end = n.min(pos + n_batch);
            let outputs = match end == n {
                true => Outputs::Last,
                false => Outputs::None,
            };
            pollster::block_on(backend.forward(&self.tokens[pos..end], pos, outputs))?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// Milliseconds for `n` tokens chosen one after the other, behind the depth asked for.
    fn decode(&mut self, n: usize) -> Result<f64> {
        let backend = &mut *self.backend;
        let mut id = self.tokens[0];
        if let Some(pos) = self.depth.checked_sub(1) {
            // The KV cache grows up to there.
            pollster::block_on(backend.forward(&[id], pos, Outputs::None))?;
        }
        let start = Instant::now();
        let most = backend.chooses(&Draw::BEST);
        let (mut pos, end) = (self.depth, self.depth + n);
        // As generation does it: several steps at once where the backend chooses the tokens, the next begun before the
        // last are waited for.
        let mut ahead = VecDeque::new();
        while pos < end {
            while ahead.len() < MOST_BEGUN {
                let n = most.min(end - pos - ahead.iter().sum::<usize>());
                if n == 0 {
                    break;
                }
                backend.choose(ahead.is_empty().then_some((id, pos, &Draw::BEST)), n)?;
                ahead.push_back(n);
            }
            if let Some(n) = ahead.pop_front() {
                let chosen = pollster::block_on(backend.chosen())?;
                id = chosen.last().copied().unwrap_or(id);
                pos += chosen.len();
                if chosen.len() == n {
                    continue;
                }
                // The next token is not certain, and nothing is under way any more.
                ahead.clear();
            }
            let logits = pollster::block_on(backend.forward(&[id], pos, Outputs::Last))?;
            id = argmax(&logits).unwrap_or(0);
            backend.reuse(logits);
            pos += 1;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

/// The counters by name, per decoded token.
fn per_token(counters: Counters) -> [(&'static str, f64); 8] {
    // Every step of the measured stretch decoded one token.
    let share = |n: u64| n as f64 / counters.steps.max(1) as f64;
    [
        ("dispatches", share(counters.dispatches)),
        ("passes", share(counters.passes)),
        ("queue_writes", share(counters.queue_writes)),
        ("bind_groups", share(counters.bind_groups)),
        ("buffers", share(counters.buffers)),
        ("submits", share(counters.submits)),
        ("encode_us", share(counters.encode_us)),
        ("readback_bytes", share(counters.readback_bytes)),
    ]
}

fn report(pp: Vec<(usize, f64)>, tg: Vec<(usize, f64)>, counters: Counters, backend: &str) -> Value {
    let rates = |rates: Vec<(usize, f64)>| -> Map<String, Value> {
        rates.into_iter().map(|(n, rate)| (n.to_string(), json!(rate))).collect()
    };
    let mut report = json!({ "backend": backend, "pp": rates(pp), "tg": rates(tg) });
    for (name, value) in per_token(counters) {
        report[name] = json!(value);
    }
    report
}

fn table(pp: &[(usize, f64)], tg: &[(usize, f64)], counters: Counters, backend: &str) -> String {
    let mut text = format!("backend          {backend}\n");
    for (name, rates) in [("prefill", pp), ("decode", tg)] {
        for (n, rate) in rates {
            text += &format!("{name:8} {n:>6}  {rate:10.2} tok/s\n");
        }
    }
    for (name, value) in per_token(counters) {
        text += &format!("{name:15}  {value:10.2} per decoded token\n");
    }
    text
}
