//! Hostile and unknown tokenizer.json files: refused with a code, the field at fault, and the part quoted.
#![cfg(not(target_arch = "wasm32"))]

use lamplight::error::ErrorCode::{self, InvalidValue, LimitExceeded, Malformed, UnsupportedTokenizer};
use lamplight::text::{EncodeOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn valid() -> Json {
    json!({
        "added_tokens": [{"id": 3, "content": "<s>", "special": true, "normalized": false}],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

fn nested(depth: usize) -> Json {
    (0..depth).fold(json!({"type": "NFC"}), |inner, _| json!({"type": "Sequence", "normalizers": [inner]}))
}

#[test]
fn bad_files_are_refused_by_name() {
    let cl = |what: &'static str, pointer: &str, value: Json, code: ErrorCode, field: &'static str| {
        let mut json = valid();
        *json.pointer_mut(pointer).expect("a place in the file") = value;
        (what, json, code, field)
    };
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"});
    let sequence = json!({"type": "Sequence", "pretokenizers": [{"type": "Bert"}]});
    let long = "x".repeat(5000);
    let table = [
        cl("a list", "", json!([]), Malformed, "tokenizer.json"),
        cl("no model", "", json!({}), Malformed, "tokenizer.json"),
        cl("unknown model", "/model/type", json!("WordLevel"), UnsupportedTokenizer, "model.type"),
        cl(
            "dropout",
            "/model",
            json!({"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}),
            UnsupportedTokenizer,
            "model.dropout",
        ),
        cl(
            "suffix",
            "/model",
            json!({"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}),
            UnsupportedTokenizer,
            "model.end_of_word_suffix",
        ),
        cl(
            "scores for BPE",
            "/model",
            json!({"type": "BPE", "vocab": [["a", 0.0]], "merges": []}),
            Malformed,
            "model.vocab",
        ),
        cl(
            "ids for Unigram",
            "/model",
            json!({"type": "Unigram", "vocab": {"a": 0}}),
            Malformed,
            "model.vocab",
        ),
        cl("empty", "/model/vocab", json!({}), InvalidValue, "model.merges[0]"),
        cl("a huge id", "/model/vocab/a", json!(4_000_000_000u32), LimitExceeded, "model.vocab"),
        cl("a negative id", "/model/vocab/a", json!(-1), Malformed, "tokenizer.json"),
        cl("a merge of one", "/model/merges/0", json!("ab"), Malformed, "tokenizer.json"),
        cl("a merge of three", "/model/merges/0", json!(["a", "b", "c"]), Malformed, "tokenizer.json"),
        cl("a merge of unknown", "/model/merges/0", json!("a x"), InvalidValue, "model.merges[0]"),
        cl("a merge to nothing", "/model/merges/0", json!(["b", "a"]), InvalidValue, "model.merges[0]"),
        cl("added outside", "/added_tokens/0/id", json!(u32::MAX), LimitExceeded, "model.vocab"),
        cl(
            "a long added token",
            "/added_tokens/0/content",
            json!(long),
            LimitExceeded,
            "added_tokens[0].content",
        ),
        cl("unknown normalizer", "/normalizer", json!({"type": "Nmt"}), UnsupportedTokenizer, "normalizer"),
        cl("normalizer without type", "/normalizer", json!({}), Malformed, "normalizer.type"),
        cl(
            "deep sequences",
            "/normalizer",
            nested(20),
            LimitExceeded,
            "normalizer.normalizers[0].normalizers[0].normalizers[0].normalizers[0].normalizers[0].normalizers[0].normalizers[0].normalizers[0].normalizers",
        ),
        cl(
            "no base64",
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "*"}),
            InvalidValue,
            "normalizer",
        ),
        cl(
            "a short table",
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
            InvalidValue,
            "normalizer",
        ),
        cl(
            "unknown regex",
            "/pre_tokenizer",
            split("(a|b)+klingon"),
            UnsupportedTokenizer,
            "pre_tokenizer.pattern",
        ),
        cl(
            "unknown step",
            "/pre_tokenizer",
            sequence,
            UnsupportedTokenizer,
            "pre_tokenizer.pretokenizers[0]",
        ),
        cl(
            "unknown behavior",
            "/pre_tokenizer",
            json!({"type": "Punctuation", "behavior": "x"}),
            UnsupportedTokenizer,
            "pre_tokenizer.behavior",
        ),
        cl(
            "unknown scheme",
            "/pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "x"}),
            UnsupportedTokenizer,
            "pre_tokenizer.prepend_scheme",
        ),
        cl(
            "two characters",
            "/pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "▁▁"}),
            Malformed,
            "pre_tokenizer.replacement",
        ),
        cl(
            "no text",
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": []}),
            Malformed,
            "post_processor.single",
        ),
        cl(
            "a token outside",
            "/post_processor",
            json!({"type": "BertProcessing", "cls": ["a", 9], "sep": ["a", 0]}),
            InvalidValue,
            "post_processor",
        ),
        cl("unknown decoder", "/decoder", json!({"type": "CTC"}), UnsupportedTokenizer, "decoder"),
        cl(
            "a decoder out of place",
            "/decoder",
            json!({"type": "Strip", "content": "x", "start": 1, "stop": 0}),
            UnsupportedTokenizer,
            "decoder",
        ),
    ];
    for (what, json, code, field) in table {
        let error = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect_err(what);
        assert_eq!((error.code(), error.field()), (code, Some(field)), "{what}: {error}");
    }
    let message = Tokenizer::from_hf(
        cl("", "/pre_tokenizer", split("(a|b)+klingon"), Malformed, "").1.to_string().as_bytes(),
        None,
    );
    assert!(message.expect_err("unknown").message().contains("(a|b)+klingon"), "the regex is quoted");
    assert!(
        Tokenizer::from_hf(valid().to_string().as_bytes(), None).is_ok(),
        "the table starts from a valid file"
    );
    for bytes in [&b""[..], b"\xff", b"{", b"null", b"[[[[[[[[[["] {
        assert_eq!(Tokenizer::from_hf(bytes, None).expect_err("no file").code(), Malformed);
    }
    let deep = [b"{\"normalizer\":".as_slice(), &b"[".repeat(100_000)].concat();
    assert_eq!(Tokenizer::from_hf(&deep, None).expect_err("deep").code(), Malformed);
}

#[test]
fn damaged_files_neither_panic_nor_hang() {
    let sources = ["smollm2_6000.json", "unigram_600.json"].map(|name| {
        let mut json: Json =
            serde_json::from_slice(&std::fs::read(format!("tests/tokenizers/{name}")).expect("there"))
                .expect("JSON");
        if let Some(merges) = json["model"]["merges"].as_array_mut() {
            merges.truncate(100);
        }
        json.to_string().into_bytes()
    });
    let edit =
        (0usize..2, any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 0..6), 0usize..8);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let result = proptest::test_runner::TestRunner::new(config).run(&edit, |(which, at, bytes, cut)| {
        let mut file = sources[which].clone();
        let at = at.index(file.len());
        let end = (at + cut).min(file.len());
        file.splice(at..end, bytes);
        if let Ok(tokenizer) = Tokenizer::from_hf(&file, None) {
            let ids = tokenizer.encode("Hello <|im_end|> wörld 123 ▁\u{301}", EncodeOptions::default());
            tokenizer.decode(&ids, false);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
