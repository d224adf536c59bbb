//! The command-line program as its users call it: results on stdout, errors on stderr, exit statuses.
#![cfg(not(target_arch = "wasm32"))]
#![cfg(all(feature = "cli", not(target_arch = "wasm32")))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::Value;

/// A tiny model with random weights.
fn model() -> String {
    golden("smollm2/model.gguf")
}

fn golden(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    path.to_str().unwrap().to_owned()
}

fn temp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn lamplight(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lamplight")).args(args).output().unwrap()
}

/// Stdout of a call that must succeed and say nothing on stderr.
fn ok(args: &[&str]) -> String {
    let output = lamplight(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.is_empty(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    let stdout = ok(args);
    assert_eq!(stdout.lines().count(), 1, "one JSON value and nothing else: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// Stderr of a call that must fail with `status` and print no result.
fn fails(args: &[&str], status: i32) -> String {
    let output = lamplight(args);
    assert_eq!(output.status.code(), Some(status), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn generate_tells_log_probabilities_of_what_may_come() {
    let model = model();
    let common = ["generate", &model, "--ids", "5,6", "--max-tokens", "3", "--allowed-token-ids", "40,41,42"];
    let args = |more: &[&'static str]| [&common[..], more].concat();
    let report =
        json(&args(&["--json", "--logprobs", "2", "--logit-bias", "41=-100", "--logit-bias", "42=100"]));
    assert_eq!(report["ids"], serde_json::json!([42, 42, 42]));
    let tokens = report["logprobs"].as_array().unwrap();
    assert!(tokens.iter().all(|token| token["id"] == 42 && token["top"].as_array().unwrap().len() == 2));
    assert_eq!(json(&args(&["--json"]))["logprobs"], Value::Null);
    let lines = ok(&args(&["--logprobs", "1"]));
    assert_eq!(lines.lines().filter(|line| line.contains("  of  -")).count(), 3, "{lines}");
    for (wrong, field) in [("--logit-bias=5=101", "logit_bias[5]"), ("--logprobs=21", "top_logprobs")] {
        assert!(fails(&args(&[wrong]), 1).contains(field), "{wrong}");
    }
    assert!(fails(&args(&["--logit-bias=99999999=1"]), 1).contains("logit_bias[99999999]"));
    fails(&args(&["--logit-bias=five=1"]), 2);
}

#[test]
fn inspect_describes_the_model() {
    let text = ok(&["inspect", &model(), "--tensors"]);
    for part in ["can be run             yes", "llama.block_count", "blk.0.attn_q.weight", "bf16"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let report = json(&["inspect", &model(), "--json"]);
    assert_eq!(report["supported"], true);
    assert_eq!(report["model"]["architecture"], "llama");
    assert_eq!(report["model"]["nVocab"], 384);
    assert_eq!(report["metadata"]["llama.block_count"], report["model"]["nLayers"]);
    let names = report["tensors"].as_array().unwrap().iter().map(|tensor| &tensor["name"]);
    assert!(names.clone().any(|name| name == "token_embd.weight"), "{:?}", names.collect::<Vec<_>>());
}

/// What works with a model in several files: every subcommand, given any of them.
#[test]
fn every_subcommand_takes_a_split_model() {
    let shard = golden("split/model-00003-of-00004.gguf");
    assert_eq!(json(&["inspect", &shard, "--json"])["container"], "GGUF 3 in 4 files");
    let (split, one) = (temp("split.safetensors"), temp("one.safetensors"));
    let whole = golden("mistral_v01/model.gguf");
    for (model, out) in [(&shard, &split), (&whole, &one)] {
        ok(&["logits", model, "--ids", "1,2,3", "--out", out.to_str().unwrap()]);
    }
    assert_eq!(std::fs::read(split).unwrap(), std::fs::read(one).unwrap());
    let generate =
        |model: &str| ok(&["generate", model, "--prompt", "a", "--max-tokens", "4", "--temperature", "0"]);
    assert_eq!(generate(&shard), generate(&whole));
    let tokenize = |model: &str| ok(&["tokenize", model, "--text", "a lamp"]);
    assert_eq!(tokenize(&shard), tokenize(&whole));
    ok(&["bench", &shard, "--pp", "4", "--tg", "2", "--reps", "1", "--json"]);
    let refused = fails(&["embed", &shard, "--text", "a"], 1);
    assert!(refused.contains("invalid-request"), "{refused}");
}

/// The vocabulary's own cases are in the tokenizer's tests; here it is about the options.
#[test]
fn tokenize_gives_ids_as_a_json_array() {
    let cases = std::fs::read_to_string(golden("mistral_v01/tokenizer_cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let case = cases["encode"]
        .as_array()
        .unwrap()
        .iter()
        .find(|case| case["text"].as_str().is_some_and(|t| t.len() > 3));
    let case = case.unwrap();
    let text = case["text"].as_str().unwrap();
    let model = golden("mistral_v01/model.gguf");
    assert_eq!(json(&["tokenize", &model, "--text", text]), case["ids"]);
    assert_eq!(json(&["tokenize", &model, "--text", text, "--no-bos"]), case["ids_no_special"]);
    let bos = json(&["tokenize", &model, "--text", "<s>", "--special", "--no-bos"]);
    assert_eq!(bos.as_array().unwrap().len(), 1, "written out special tokens are read with --special");
    let plain = json(&["tokenize", &model, "--text", "<s>", "--no-bos"]);
    assert!(plain.as_array().unwrap().len() > 1, "and are text without");
}

/// That the numbers are right is `golden.rs`; here it is the file.
#[test]
fn logits_writes_a_safetensors_file() {
    for (name, exact) in [("fast.safetensors", false), ("exact.safetensors", true)] {
        let out = temp(name);
        let mut args =
            vec!["logits", "", "--ids", "5,6,7", "--backend", "cpu", "--out", out.to_str().unwrap()];
        let model = model();
        args[1] = &model;
        if exact {
            args.push("--exact");
        }
        assert_eq!(ok(&args), "");
        let bytes = std::fs::read(&out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.names(), ["logits"]);
        let logits = file.tensor("logits").unwrap();
        assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[3, 384][..]));
        assert!(logits.data().chunks_exact(4).all(|b| f32::from_le_bytes(b.try_into().unwrap()).is_finite()));
    }
}

#[test]
fn generate_prints_text_or_one_json_object() {
    let model = model();
    let from_ids =
        ["generate", &model, "--ids", "5,6,7", "--max-tokens", "6", "--temperature", "0", "--exact"];
    let report = json(&[&from_ids[..], &["--json"]].concat());
    assert_eq!(report["ids"].as_array().unwrap().len(), 6);
    assert_eq!((&report["prompt_tokens"], &report["backend"]), (&3.into(), &"cpu".into()));
    for speed in ["ttft_ms", "prefill_tok_s", "decode_tok_s"] {
        assert!(report[speed].as_f64().unwrap() > 0.0, "{speed} of {report}");
    }
    assert_eq!(ok(&from_ids), format!("{}\n", report["text"].as_str().unwrap()));
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let model = model();
    let run = |seed| {
        let args = ["generate", &model, "--prompt", "Hello", "--max-tokens", "12", "--temperature", "1.5"];
        json(&[&args[..], &["--seed", seed, "--json"]].concat())["ids"].clone()
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn chat_uses_the_models_template() {
    let model = model();
    let short = ["--max-tokens", "1", "--json"];
    let plain = json(&[&["generate", &model, "--prompt", "Hi"], &short[..]].concat());
    let chat = json(&[&["generate", &model, "--prompt", "Hi", "--chat"], &short[..]].concat());
    let count = |report: &Value| report["prompt_tokens"].as_u64().unwrap();
    assert!(count(&chat) > count(&plain) + 4, "{plain} {chat}");
}

#[test]
fn bench_reports_speeds_and_costs() {
    let report =
        json(&["bench", &model(), "--pp", "4,9", "--tg", "3", "--depth", "5", "--reps", "1", "--json"]);
    for (kind, n) in [("pp", "4"), ("pp", "9"), ("tg", "3")] {
        assert!(report[kind][n].as_f64().unwrap() > 0.0, "{report}");
    }
    let objects = ["queue_writes", "bind_groups", "buffers"];
    let work = ["dispatches", "passes", "submits", "encode_us", "readback_bytes"];
    for cost in objects.iter().chain(&work).copied() {
        assert_eq!(report[cost], 0.0, "the CPU backend has no {cost}");
    }
}

#[test]
fn bench_runs_models_of_random_weights() {
    let args = ["bench", "tiny", "--synthetic", "--quant", "q4_0", "--pp", "5", "--tg", "2", "--json"];
    let report = json(&args);
    assert!(report["tg"]["2"].as_f64().unwrap() > 0.0, "{report}");
    // Two layers of q, k, v, output (256 x 256 + 2 x 128 x 256 + 256 x 256) and gate, up, down (3 x 512 x 256), and the
    // head (500 x 256), 18 bytes for 32 weights.
    let weights = 2 * (256 + 2 * 128 + 256 + 3 * 512) * 256 + 500 * 256;
    assert_eq!(report["weight_bytes"], weights / 32 * 18);
}

#[test]
fn bench_tells_where_a_token_goes() {
    let args = ["bench", "tiny", "--synthetic", "--quant", "q4_0", "--tg", "4", "--profile"];
    let report = json(&[&args[..], &["--json"]].concat());
    // The first step only brings caches into order.
    assert_eq!(report["steps"], 3);
    let op = |name: &str| {
        let ops = report["ops"].as_array().unwrap();
        ops.iter().find(|op| op["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}")).clone()
    };
    // 500 rows in panels of 4, 256 columns in blocks of 32: 96 bytes for 4 x 32 weights.
    assert_eq!(op("token_embd")["bytes"], 3 * 500 / 4 * 256 / 32 * 96);
    assert!(op("token_embd")["seconds"].as_f64().unwrap() > 0.0);
    assert!(report["read_bytes_per_s"].as_f64().unwrap() > 0.0);
    let table = ok(&args);
    assert!(table.contains("\nall ") && table.contains("\nffn_up "), "{table}");
    let refused = fails(&[&args[..], &["--threads", "2"]].concat(), 1);
    assert!(refused.contains("--profile"), "{refused}");
}

#[test]
fn errors_are_typed_and_on_stderr() {
    let model = model();
    let text_file = golden("README.md");
    for (args, start) in [
        (&["inspect", "no/such/file.gguf"][..], "error[io]"),
        (&["inspect", &text_file], "error[not-a-model]"),
        (&["generate", env!("CARGO_MANIFEST_DIR"), "--prompt", "x"], "error[not-a-model]"),
        (&["logits", &model, "--ids", "1,999999", "--out", "x"], "error[invalid-request] at prompt[1]"),
        (
            &["generate", &model, "--prompt", "x", "--temperature", "NaN"],
            "error[invalid-request] at temperature",
        ),
        (&["generate", &model, "--prompt", "x", "--ctx", "0"], "error[invalid-request] at n_ctx"),
        (&["generate", &model, "--ids", "1,2,3", "--ctx", "2"], "error[context-length-exceeded] at prompt"),
    ] {
        let stderr = fails(args, 1);
        assert!(stderr.starts_with(start), "{args:?}: {stderr}");
    }
}

#[test]
fn wrong_usage_is_exit_status_2() {
    let model = model();
    for args in [
        &[][..],
        &["generate", &model],
        &["generate", &model, "--prompt", "x", "--ids", "1"],
        &["generate", &model, "--prompt", "x", "--backend", "abacus"],
        &["logits", &model, "--ids", "1,x", "--out", "y"],
        &["logits", &model, "--ids", "1"],
        &["tokenize", &model],
    ] {
        assert!(!fails(args, 2).is_empty());
    }
}

#[test]
fn quantize_writes_a_file_that_runs() {
    let out = temp("quantised.gguf");
    let out = out.to_str().unwrap();
    let text = ok(&["quantize", &model(), out, "--type", "Q8_0"]);
    assert!(text.contains("q8_0") && text.contains("f32"), "{text}");
    let report = json(&["inspect", out, "--json"]);
    assert_eq!(report["supported"], true);
    let prompt = ["--prompt", "Once", "--max-tokens", "8"];
    let from_file = ok(&[&["generate", out], &prompt[..]].concat());
    let at_load = ok(&[&["generate", &model(), "--quantize", "q8_0"], &prompt[..]].concat());
    assert_eq!(from_file, at_load);
    let error = fails(&["quantize", &model(), out, "--type", "iq1_s"], 1);
    assert!(error.contains("invalid-request") && error.contains("q4_k"), "{error}");
    let error = fails(&["quantize", &model(), &model(), "--type", "q8_0"], 1);
    assert!(error.contains("overwritten"), "{error}");
}

#[test]
fn fidelity_keeps_its_gates_and_embed_prints_vectors() {
    // The text is longer than what a test build should take: a few tokens say whether the figures are there.
    let text = ok(&["fidelity", &model(), "--types", "q8_0,f16", "--no-gpu", "--tokens", "16"]);
    assert_eq!(text.matches("kept").count(), 2, "{text}");
    let error = fails(&["fidelity", &model(), "--types", "q9_9"], 1);
    assert!(error.contains("q9_9") && error.contains("q8_0"), "{error}");

    let minilm = golden("bert_minilm_gguf/model.gguf");
    let vector = json(&["embed", &minilm, "--text", "Hello world", "--dimensions", "8"]);
    assert_eq!(vector.as_array().unwrap().len(), 8);
    assert!(fails(&["embed", &model(), "--text", "Hello"], 1).contains("embedding model"));
    assert!(fails(&["generate", &minilm, "--prompt", "Hello"], 1).contains("call embed"));
}

#[test]
fn manifest_names_what_every_part_must_be() {
    use sha2::{Digest, Sha256};
    let hex =
        |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    let manifest = json(&["manifest", &model(), "--name", "small", "--settings", r#"{"contextLength":64}"#]);
    let bytes = std::fs::read(model()).unwrap();
    let [file] = manifest["files"].as_array().unwrap().as_slice() else { panic!("{manifest}") };
    assert_eq!(manifest["name"], "small");
    assert_eq!(manifest["settings"]["contextLength"], 64);
    assert_eq!(manifest["version"].as_str().unwrap().len(), 12);
    assert_eq!(file["name"], "model.gguf");
    assert_eq!(file["bytes"], bytes.len());
    assert_eq!(file["sha256"], hex(&bytes));
    let data_end = usize::try_from(file["dataEnd"].as_u64().unwrap()).unwrap();
    assert_eq!(file["parts"], serde_json::json!([hex(&bytes[..data_end])]));

    // Of a folder, the small files as well.
    let folder = json(&["manifest", &golden("hf/cohere")]);
    let files = folder["files"].as_array().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let file =
            files.iter().find(|file| file["name"] == name).unwrap_or_else(|| panic!("no {name}: {folder}"));
        assert_eq!(file["sha256"], hex(&std::fs::read(golden(&format!("hf/cohere/{name}"))).unwrap()));
    }
    assert!(fails(&["manifest", &model(), "--settings", "5"], 1).contains("--settings"));
}
