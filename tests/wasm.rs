//! The crate inside a browser's dedicated worker: `wasm-pack test --headless --chrome` (or `--firefox`).
//!
//! Holds both backends against an independent implementation's logits, and runs in wasm what must not trap there.
//! With `LAMPLIGHT_EXPECT_GPU=1` at compile time a missing WebGPU adapter is a failure; with `0` a present one is.
#![cfg(target_arch = "wasm32")]

mod common;
// Both parts share the helpers below.
#[path = "formats/table.rs"]
mod malformed;
#[path = "common/shader_variants.rs"]
mod shader_variants;

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::gpu::{GpuBackend, GpuDevice, GpuOptions, Precision, Tuning};
use lamplight::backend::{Backend, Outputs};
use lamplight::engine::{
    CompletionRequest, Engine, LoadOptions, Loading, NoPause, Prompt, SamplingParams, check_gpu, fill,
};
use lamplight::error::ErrorCode;
use lamplight::text::EncodeOptions;
use lamplight::web::store::{ModelRecord, PartInfo, Store};
use lamplight::weights::{Assembler, MemorySource, PART_BYTES, read_header};
use safetensors::SafeTensors;
use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// A tiny model of the golden set: the file, and what is known of it.
struct Golden {
    file: &'static [u8],
    reference: &'static [u8],
    facts: &'static str,
}

macro_rules! golden {
    ($name:literal) => {
        Golden {
            file: include_bytes!(concat!("golden/", $name, "/model.gguf")),
            reference: include_bytes!(concat!("golden/", $name, "/reference.safetensors")),
            facts: include_str!(concat!("golden/", $name, "/golden.json")),
        }
    };
}

/// Q4_K, Q6_K and F32 tensors, rope scaling.
const QUANTISED: Golden = golden!("llama31_q4_k_m");
/// BF16 tensors, tied head, a tokenizer and a chat template.
const TIED: Golden = golden!("smollm2");

impl Golden {
    fn fact(&self, key: &str) -> f32 {
        let facts: serde_json::Value = serde_json::from_str(self.facts).expect("golden.json is JSON");
        facts[key].as_f64().expect("golden.json has the key") as f32
    }

    fn tensor<T>(&self, name: &str, read: impl Fn([u8; 4]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(self.reference).expect("the reference is whole");
        let bytes = tensors.tensor(name).expect("the reference has the tensor").data().chunks_exact(4);
        bytes.map(|b| read(b.try_into().expect("chunks of four"))).collect()
    }

    fn prompt(&self) -> Vec<u32> {
        self.tensor("prompt0.input_ids", u32::from_le_bytes)
    }

    fn greedy_ids(&self) -> Vec<u32> {
        self.tensor("prompt0.greedy_ids", u32::from_le_bytes)
    }

    fn logits(&self) -> Vec<f32> {
        self.tensor("prompt0.logits", f32::from_le_bytes)
    }

    async fn loading(&self) -> Loading {
        let header = read_header(&MemorySource(self.file.to_vec())).await.expect("the header is good");
        Loading::new(header, LoadOptions { n_ctx: Some(128), n_batch: Some(16), ..LoadOptions::default() })
            .expect("the model is supported")
    }

    async fn on_cpu(&self, mode: CpuMode) -> Engine<CpuBackend> {
        let loading = self.loading().await;
        let mut backend = CpuBackend::new(loading.plan(), mode).expect("the plan fits");
        let source = MemorySource(self.file.to_vec());
        fill(&mut backend, &loading, &[source]).await.expect("the file is whole");
        loading.into_engine(backend)
    }

    /// By way of JS arrays, as the worker does.
    async fn on_gpu(&self, device: GpuDevice, precision: Precision) -> Engine<GpuBackend> {
        let loading = self.loading().await;
        let mut backend = GpuBackend::new(loading.plan(), device, precision).await.expect("the plan fits");
        let mut assembler = Assembler::new(loading.weights());
        for part in loading.weights().parts(PART_BYTES) {
            let first = usize::try_from(part.range.start).expect("a tiny file");
            for piece in loading.weights().pieces(0, part.range) {
                let (lead, n) = assembler.straight(&piece);
                assert_eq!(
                    (lead, n),
                    (0, piece.range.len()),
                    "the tensors of this file go straight to the GPU"
                );
                let bytes = &self.file[first + piece.range.start..first + piece.range.end];
                let array = js_sys::Uint8Array::from(bytes);
                let offset = assembler.passed(&piece, n);
                backend.upload_js(piece.weight, offset, &array).expect("the piece fits");
            }
        }
        assembler.finish(&mut |_, _, _: &[u8]| Ok(())).expect("nothing is missing");
        backend.finish_upload().await.expect("all is there");
        loading.into_engine(backend)
    }
}

/// Logits of every position of the prompt, in one step per 16 tokens.
async fn all_logits<B: Backend>(engine: &mut Engine<B>, prompt: &[u32]) -> Vec<f32> {
    let backend = engine.session_mut().backend_mut();
    let mut logits = Vec::new();
    for (index, chunk) in prompt.chunks(16).enumerate() {
        logits.extend(backend.forward(chunk, index * 16, Outputs::All).await.expect("the step runs"));
    }
    logits
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // max() would hide a NaN.
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, d| if d.is_nan() || d > worst { d } else { worst })
}

fn rms_difference(a: &[f32], b: &[f32]) -> f32 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / a.len() as f64).sqrt() as f32
}

async fn greedy<B: Backend>(engine: &mut Engine<B>, golden: &Golden) -> Vec<u32> {
    let sampling = SamplingParams { temperature: 0.0, max_tokens: Some(16), ..SamplingParams::default() };
    let request = CompletionRequest { prompt: Prompt::Ids(golden.prompt()), sampling };
    engine.complete(request, &NoPause, |_| {}).await.expect("the request is good").ids
}

/// The device to test on, or `None` where there is none and none was promised.
async fn gpu() -> Option<GpuDevice> {
    let found = GpuDevice::request(GpuOptions::default()).await;
    match (&found, option_env!("LAMPLIGHT_EXPECT_GPU")) {
        (Ok(device), expected) => {
            assert_ne!(expected, Some("0"), "a WebGPU adapter came where none was expected");
            console_log!("WebGPU adapter: {:?}", device.info());
        }
        (Err(error), expected) => {
            assert_eq!(error.code(), ErrorCode::GpuUnavailable);
            assert_ne!(expected, Some("1"), "no WebGPU adapter: {error}");
            console_log!("no WebGPU adapter, GPU tests only show the error: {error}");
        }
    }
    found.ok()
}

#[wasm_bindgen_test]
async fn exact_cpu_logits_are_the_references() {
    for golden in [QUANTISED, TIED] {
        let mut engine = golden.on_cpu(CpuMode::Exact).await;
        let worst = largest_difference(&all_logits(&mut engine, &golden.prompt()).await, &golden.logits());
        assert!(worst <= golden.fact("tolerance_f32"), "largest difference {worst}");
        assert_eq!(greedy(&mut engine, &golden).await, golden.greedy_ids());
    }
}

#[wasm_bindgen_test]
async fn fast_cpu_logits_are_near_the_references() {
    for golden in [QUANTISED, TIED] {
        let mut engine = golden.on_cpu(CpuMode::Fast).await;
        let rms = rms_difference(&all_logits(&mut engine, &golden.prompt()).await, &golden.logits());
        console_log!("CPU, fast: rms difference {rms}");
        // llama.cpp's own 8-bit activations move such logits by 2 to 4 % of their spread.
        assert!(rms <= 0.06 * golden.fact("logit_std"), "rms difference {rms}");
    }
}

#[wasm_bindgen_test]
async fn gpu_logits_are_the_references() {
    let Some(device) = gpu().await else { return };
    for golden in [QUANTISED, TIED] {
        let loading = golden.loading().await;
        let checked = check_gpu(&device, loading.miniature(), Precision::F32, Tuning::default());
        let (_, _, check) = checked.await.expect("the kernels compute what the CPU computes");
        console_log!("{check:?}");
        assert!(check.replaced.is_none() && check.kernels > 10, "{check:?}");
        let mut engine = golden.on_gpu(device.clone(), Precision::F32).await;
        let worst = largest_difference(&all_logits(&mut engine, &golden.prompt()).await, &golden.logits());
        console_log!("GPU, f32: largest difference {worst}");
        assert!(worst <= golden.fact("tolerance_f32"), "largest difference {worst}");
        assert_eq!(greedy(&mut engine, &golden).await, golden.greedy_ids());
        if device.info().shader_f16 {
            let mut engine = golden.on_gpu(device.clone(), Precision::F16).await;
            let worst =
                largest_difference(&all_logits(&mut engine, &golden.prompt()).await, &golden.logits());
            console_log!("GPU, f16: largest difference {worst}");
            assert!(worst <= golden.fact("tolerance_f16"), "largest difference {worst}");
        }
    }
}

#[wasm_bindgen_test]
async fn every_shader_variant_compiles() {
    let Some(device) = gpu().await else { return };
    let mut variants = shader_variants::variants();
    let info = device.info();
    variants.retain(|variant| (!variant.f16 || info.shader_f16) && (!variant.subgroups || info.subgroups));
    // SwiftShader translates each to machine code, which takes it about a second: a sample, by a seed that is told.
    if info.architecture == "swiftshader" && option_env!("LAMPLIGHT_LONG").is_none() {
        let given = option_env!("LAMPLIGHT_SEED").and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| (js_sys::Date::now() / 1000.0) as usize % 1000);
        let step = variants.len().div_ceil(256);
        console_log!("sampled by LAMPLIGHT_SEED={seed}");
        variants = variants.into_iter().skip(seed % step).step_by(step).collect();
    }
    console_log!("{} shader variants", variants.len());
    device.check_kernels(&variants).await.expect("every variant compiles");
}

#[wasm_bindgen_test]
async fn a_decode_step_makes_no_gpu_objects() {
    let Some(device) = gpu().await else { return };
    let mut engine = QUANTISED.on_gpu(device, Precision::F32).await;
    let backend = engine.session_mut().backend_mut();
    backend.forward(&[1, 2, 3], 0, Outputs::Last).await.expect("the prefill runs");
    let before = backend.counters();
    for pos in 3..6 {
        backend.forward(&[7], pos, Outputs::Last).await.expect("the step runs");
    }
    let after = backend.counters();
    assert_eq!((after.buffers, after.bind_groups), (before.buffers, before.bind_groups));
    assert_eq!(after.submits - before.submits, 3, "one submit a token");
}

#[wasm_bindgen_test]
fn every_malformed_file_gives_its_error() {
    let failures = malformed::run_all();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[wasm_bindgen_test]
async fn the_tokenizer_keeps_text_whole() {
    let engine = TIED.on_cpu(CpuMode::Exact).await;
    let tokenizer = engine.tokenizer();
    let options = EncodeOptions { add_special: false, parse_special: false };
    for text in ["Hello, world!", "  spaces\t\n\n", "Grüße 世界 👩‍👩‍👧 \u{0}", "<|im_start|>user"]
    {
        let ids = tokenizer.encode(text, options);
        assert_eq!(tokenizer.decode(&ids, false), text);
        assert!(ids.iter().all(|id| !tokenizer.is_special(*id)), "{text:?} became a special token");
    }
}

#[wasm_bindgen_test]
async fn the_store_keeps_whole_parts_and_forgets_them() {
    let store = Store::open().await.expect("there is IndexedDB in a worker");
    let key = "test:store";
    store.delete_model(key).await.expect("nothing to delete is no error");
    let record =
        ModelRecord { key: key.into(), name: "x".into(), data_end: PART_BYTES + 5, ..ModelRecord::default() };
    store.put_record(&record).await.expect("the record is kept");
    let part = |index, len, sha256: &str| PartInfo { index, len, sha256: sha256.into() };
    let (first, last) = (part(0, PART_BYTES, "01"), part(1, 5, "00"));
    // A view into a larger buffer: only its own bytes may be stored.
    let tail = js_sys::Uint8Array::from(&[9, 1, 2, 3, 4, 5, 9][..]).subarray(1, 6);
    store.put_part(key, &last, &tail).await.expect("the part is kept");

    let part = store.read_part(&last).await.expect("the store works").expect("the part is there");
    assert_eq!(part.bytes.to_vec(), [1, 2, 3, 4, 5]);
    assert!(store.read_part(&first).await.expect("the store works").is_none());
    let parts = store.parts(key).await.expect("the store works");
    assert_eq!(parts.iter().map(|part| (part.index, part.len)).collect::<Vec<_>>(), [(1, 5)]);
    assert_eq!(
        store.record(key).await.expect("the store works").expect("the record is there").data_end,
        PART_BYTES + 5
    );

    // Another file of the same bytes: they stay until the last of the two goes.
    let other = "test:other";
    store.put_part(other, &last, &tail).await.expect("the part is kept");
    store.delete_model(other).await.expect("the model goes");
    assert!(store.read_part(&last).await.expect("the store works").is_some());

    store.delete_model(key).await.expect("the model goes");
    assert!(store.record(key).await.expect("the store works").is_none());
    assert!(store.parts(key).await.expect("the store works").is_empty());
    assert!(store.read_part(&last).await.expect("the store works").is_none());
}
