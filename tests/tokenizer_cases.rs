//! Encodings, decodings and chat prompts against cases that Hugging Face and llama.cpp have computed: the committed
//! golden set, and the larger oracle beside the checkout where there is one.
#![cfg(not(target_arch = "wasm32"))]

#[path = "common/tokenizer_json.rs"]
mod tokenizer_json;

use std::path::{Path, PathBuf};

use lamplight::error::ErrorCode;
use lamplight::formats::gguf::{Parsed, parse};
use lamplight::formats::metadata::Metadata;
use lamplight::text::{ChatMessage, ChatTemplate, EncodeOptions, Tokenizer};
use serde_json::Value as Json;

const ORACLE: &str = "../shared/oracle";

fn options(add_special: bool) -> EncodeOptions {
    EncodeOptions { add_special, parse_special: true }
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn json(path: &Path) -> Json {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text<'c>(case: &'c Json, key: &str) -> &'c str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} is no text: {case}"))
}

fn gguf_metadata(path: &Path) -> Metadata {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match parse(&bytes, Some(bytes.len() as u64)) {
        Ok(Parsed::Header(header)) => header.metadata,
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// Folders within `root` that hold `file`.
fn folders(root: &str, file: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else {
        eprintln!("skipped: {root} is not there");
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.retain(|folder| folder.join(file).exists());
    folders.sort();
    folders
}

/// A GGUF file in a folder.
fn gguf_in(folder: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(folder).ok()?.filter_map(|file| Some(file.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|extension| extension == "gguf"))
}

/// Differences found so far, so that one run shows them all.
#[derive(Default)]
struct Report {
    checks: usize,
    differences: Vec<String>,
}

impl Report {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: T, want: T) {
        self.checks += 1;
        if got != want {
            self.differences.push(format!("{what}\n   got {got:?}\n  want {want:?}"));
        }
    }

    fn finish(self, at_least: usize) {
        let n = self.differences.len();
        assert!(n == 0, "{n} of {} differ:\n{}", self.checks, self.differences.join("\n"));
        assert!(self.checks >= at_least, "only {} checks ran", self.checks);
    }
}

fn check_encodings(report: &mut Report, family: &str, tokenizer: &Tokenizer, cases: &Json) {
    for case in cases["encode"].as_array().expect("cases") {
        let input = text(case, "text");
        let what = |kind: &str| format!("{family} {kind} {input:?}");
        report.check(&what("ids"), tokenizer.encode(input, options(true)), ids(&case["ids"]));
        let plain = ids(&case["ids_no_special"]);
        report.check(&what("ids_no_special"), tokenizer.encode(input, options(false)), plain.clone());
        report.check(&what("decoded"), tokenizer.decode(&plain, false).as_str(), text(case, "decoded"));
        let shown = tokenizer.decode(&plain, true);
        report.check(&what("decoded_skip_special"), shown.as_str(), text(case, "decoded_skip_special"));
    }
}

fn check_chats(
    report: &mut Report,
    family: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    cases: &Json,
) {
    for case in cases["chat"].as_array().expect("cases") {
        let messages: Vec<ChatMessage> =
            serde_json::from_value(case["messages"].clone()).expect("messages of role and content");
        let add = case["add_generation_prompt"] == true;
        let what = format!("{family} chat {:?}", case["messages"]);
        let args = case["kwargs"].as_object().cloned().unwrap_or_default();
        let rendered = template.render(&messages, add, &args);
        if case.get("raises").is_some() {
            report.check(&what, rendered.map_err(|error| error.code()), Err(ErrorCode::TemplateError));
            continue;
        }
        match rendered {
            Ok(rendered) => {
                report.check(&what, rendered.text(), text(case, "text"));
                if !case["ids"].is_null() {
                    report.check(&what, rendered.encode(tokenizer), ids(&case["ids"]));
                }
            }
            Err(error) => report.differences.push(format!("{what}: {error}")),
        }
    }
}

#[test]
fn golden_vocabularies_and_templates() {
    let mut report = Report::default();
    for folder in folders("tests/golden", "tokenizer_cases.json") {
        let family = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let metadata = gguf_metadata(&folder.join("model.gguf"));
        let tokenizer = Tokenizer::from_metadata(&metadata).expect(&family);
        let cases = json(&folder.join("tokenizer_cases.json"));
        check_encodings(&mut report, &family, &tokenizer, &cases);
        let template = ChatTemplate::from_metadata(&metadata, &tokenizer).expect(&family);
        if let Some(template) = template {
            check_chats(&mut report, &family, &tokenizer, &template, &cases);
        }
    }
    report.finish(500);
}

#[test]
fn oracle_vocabularies_and_templates() {
    let mut report = Report::default();
    for folder in folders(ORACLE, "tokenizer.json") {
        let family = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let config = json(&folder.join("tokenizer_config.json"));
        let bytes = std::fs::read(folder.join("tokenizer.json")).expect("readable");
        let tokenizer = Tokenizer::from_hf(&bytes, Some(&config)).expect(&family);
        let path = folder.join("tokenizer_cases.json");
        if !path.exists() {
            continue;
        }
        let cases = json(&path);
        check_encodings(&mut report, &family, &tokenizer, &cases);
        if let Some(template) = ChatTemplate::from_hf(Some(&config), None, &tokenizer).expect(&family) {
            check_chats(&mut report, &family, &tokenizer, &template, &cases);
        }
    }
    report.finish(0);
}

#[test]
fn oracle_gguf_files_encode_as_llama_cpp_or_hugging_face_do() {
    let mut report = Report::default();
    for folder in folders(ORACLE, "llamacpp_tokenizer_cases.json") {
        let family = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let metadata = gguf_metadata(&gguf_in(&folder).expect("a model"));
        let tokenizer = match Tokenizer::from_metadata(&metadata) {
            Ok(tokenizer) => tokenizer,
            Err(error) if error.code() == ErrorCode::UnsupportedTokenizer => {
                eprintln!("skipped: {family}: {error}");
                continue;
            }
            Err(error) => panic!("{family}: {error}"),
        };
        for case in json(&folder.join("llamacpp_tokenizer_cases.json")).as_array().expect("cases") {
            let got = tokenizer.encode(text(case, "text"), options(false));
            // Where the two differ, Hugging Face's is what the model was trained with.
            let want = case.get("hf_ids").unwrap_or(&case["ids"]);
            report.check(&format!("{family} {:?}", case["text"]), got, ids(want));
        }
    }
    report.finish(0);
}

#[test]
fn oracle_gguf_files_encode_prompts_as_their_folders_do() {
    let mut report = Report::default();
    for folder in folders(ORACLE, "llamacpp_tokenizer_cases.json") {
        let family = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let twin = Path::new(ORACLE).join(family.trim_start_matches("gguf_"));
        let (Ok(bytes), Some(gguf)) = (std::fs::read(twin.join("tokenizer.json")), gguf_in(&folder)) else {
            continue;
        };
        let config = json(&twin.join("tokenizer_config.json"));
        let from_hf = Tokenizer::from_hf(&bytes, Some(&config)).expect(&family);
        let from_gguf = Tokenizer::from_metadata(&gguf_metadata(&gguf)).expect(&family);
        for case in json(&twin.join("tokenizer_cases.json"))["chat"].as_array().expect("cases") {
            if let Some(prompt) = case["text"].as_str() {
                let want = from_hf.encode(prompt, options(false));
                report.check(&format!("{family} {prompt:?}"), from_gguf.encode(prompt, options(false)), want);
            }
        }
    }
    report.finish(0);
}

#[test]
fn whole_vocabularies_encode_as_llama_cpp_does() {
    let Some(folder) = std::env::var_os("LAMPLIGHT_VOCABS") else {
        eprintln!(
            "skipped: LAMPLIGHT_VOCABS may name a folder with llama.cpp's ggml-vocab-*.gguf, .inp and .out files"
        );
        return;
    };
    let mut report = Report::default();
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let beside = |extension: &str| std::fs::read_to_string(format!("{}.{extension}", path.display()));
        let (true, Ok(inputs), Ok(outputs)) = (name.ends_with(".gguf"), beside("inp"), beside("out")) else {
            continue;
        };
        if std::fs::metadata(&path).expect("a file").len() == 0 {
            continue;
        }
        let tokenizer = Tokenizer::from_metadata(&gguf_metadata(&path)).expect(&name);
        let inputs = inputs.split("\n__ggml_vocab_test__\n");
        for (input, output) in inputs.zip(outputs.lines()) {
            let want: Vec<u32> = output.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            report.check(&format!("{name} {input:?}"), tokenizer.encode(input, options(false)), want);
        }
    }
    report.finish(1);
}
