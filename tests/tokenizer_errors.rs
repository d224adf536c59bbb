//! Malformed vocabularies: each gives a typed error that names the field, and none a panic.
#![cfg(not(target_arch = "wasm32"))]

#[path = "common/byte_vocab.rs"]
mod byte_vocab;

use lamplight::error::ErrorCode;
use lamplight::formats::metadata::{Metadata, StringArray, Value};
use lamplight::text::{EncodeOptions, Tokenizer};
use proptest::prelude::*;

fn strings(list: &[&[u8]]) -> Value {
    let mut array = StringArray::default();
    for text in list {
        assert!(array.push(text));
    }
    Value::Strings(array)
}

fn byte_level() -> Metadata {
    byte_vocab::metadata("gpt-2", &[("<|im_end|>", 3)])
}

fn sentence_piece() -> Metadata {
    let mut metadata = Metadata::default();
    let mut insert = |key: &str, value| {
        metadata.insert(format!("tokenizer.ggml.{key}"), value).expect("a key is set once");
    };
    insert("model", Value::String("llama".into()));
    insert("tokens", strings(&[b"<unk>", b"<s>", b"</s>", b"<0x41>", "\u{2581}".as_bytes(), b"b"]));
    insert("token_type", Value::Ints(vec![2, 3, 3, 6, 1, 1]));
    insert("scores", Value::Floats(vec![0.0; 6]));
    metadata
}

/// The metadata with `key` replaced, or removed.
fn with(mut metadata: Metadata, key: &str, value: Option<Value>) -> Metadata {
    let key = format!("tokenizer.ggml.{key}");
    metadata.remove(&key);
    if let Some(value) = value {
        metadata.insert(key, value).expect("removed before");
    }
    metadata
}

#[test]
fn malformed_vocabularies_are_refused_by_name() {
    use ErrorCode::{InvalidValue, MissingKey, UnsupportedTokenizer, WrongType};
    let text = |text: &str| Some(Value::String(text.into()));
    let bpe = |key, value| with(byte_level(), key, value);
    let spm = |key, value| with(sentence_piece(), key, value);
    let six = |byte_token: &[u8]| {
        Some(strings(&[b"<unk>", b"<s>", b"</s>", byte_token, "\u{2581}".as_bytes(), b"b"]))
    };
    let table = [
        ("no model", bpe("model", None), MissingKey, "model"),
        ("model of another type", bpe("model", Some(Value::Uint(1))), WrongType, "model"),
        ("unknown model", bpe("model", text("plamo2")), UnsupportedTokenizer, "model"),
        ("unknown pre", bpe("pre", text("klingon")), UnsupportedTokenizer, "pre"),
        ("no tokens", bpe("tokens", None), MissingKey, "tokens"),
        ("empty vocabulary", bpe("tokens", Some(strings(&[]))), InvalidValue, "tokens"),
        ("tokens of another type", bpe("tokens", Some(Value::Uints(vec![1]))), WrongType, "tokens"),
        (
            "types of another length",
            bpe("token_type", Some(Value::Ints(vec![1]))),
            InvalidValue,
            "token_type",
        ),
        ("types of another type", bpe("token_type", Some(Value::Floats(vec![1.0]))), WrongType, "token_type"),
        ("no such type", bpe("token_type", Some(Value::Ints(vec![1, 77]))), InvalidValue, "token_type[1]"),
        ("no merges", bpe("merges", None), MissingKey, "merges"),
        ("merge of one", bpe("merges", Some(strings(&[b"ab"]))), InvalidValue, "merges[0]"),
        ("merge of unknown", bpe("merges", Some(strings(&[b"a \xff"]))), InvalidValue, "merges[0]"),
        ("merge to nothing", bpe("merges", Some(strings(&[b"a b"]))), InvalidValue, "merges[0]"),
        ("eos outside", bpe("eos_token_id", Some(Value::Uint(257))), InvalidValue, "eos_token_id"),
        ("bos outside", bpe("bos_token_id", Some(Value::Uint(u64::MAX))), InvalidValue, "bos_token_id"),
        ("negative eot", bpe("eot_token_id", Some(Value::Int(-1))), InvalidValue, "eot_token_id"),
        (
            "padding outside",
            bpe("padding_token_id", Some(Value::Uint(257))),
            InvalidValue,
            "padding_token_id",
        ),
        ("add_bos no bool", bpe("add_bos_token", Some(Value::Uint(1))), WrongType, "add_bos_token"),
        ("no scores", spm("scores", None), MissingKey, "scores"),
        ("scores of another length", spm("scores", Some(Value::Floats(vec![0.0]))), InvalidValue, "scores"),
        ("scores of another type", spm("scores", Some(Value::Ints(vec![0; 6]))), WrongType, "scores"),
        (
            "a score not a number",
            spm("scores", Some(Value::Floats(vec![0.0, f32::NAN, 0., 0., 0., 0.]))),
            InvalidValue,
            "scores[1]",
        ),
        ("byte token without end", spm("tokens", six(b"<0x4")), InvalidValue, "tokens[3]"),
        ("byte token of one digit", spm("tokens", six(b"<0x4>")), InvalidValue, "tokens[3]"),
        ("byte token of a sign", spm("tokens", six(b"<0x+4>")), InvalidValue, "tokens[3]"),
    ];
    for (what, metadata, code, field) in table {
        let error = Tokenizer::from_metadata(&metadata).expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
        assert_eq!(error.field(), Some(format!("tokenizer.ggml.{field}").as_str()), "{what}: {error}");
    }
}

#[test]
fn default_ids_are_checked_too() {
    let mut metadata = with(sentence_piece(), "tokens", Some(strings(&[b"a"])));
    metadata = with(metadata, "scores", Some(Value::Floats(vec![0.0])));
    metadata = with(metadata, "token_type", Some(Value::Ints(vec![1])));
    let error = Tokenizer::from_metadata(&metadata).expect_err("token 1 is outside");
    assert_eq!((error.code(), error.field()), (ErrorCode::InvalidValue, Some("tokenizer.ggml.bos_token_id")));
}

#[test]
fn the_known_pre_tokenizers_are_listed() {
    let metadata = with(byte_level(), "pre", Some(Value::String("klingon".into())));
    let message = Tokenizer::from_metadata(&metadata).expect_err("unknown").to_string();
    for name in ["klingon", "smollm", "llama-bpe", "qwen2", "gpt-2", "default"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn byte_fallback_and_the_unknown_token() {
    let tokenizer = Tokenizer::from_metadata(&sentence_piece()).expect("valid");
    let options = EncodeOptions { add_special: true, parse_special: false };
    // ▁, b, the byte token of A, and é, whose bytes have no tokens.
    assert_eq!(tokenizer.encode("bAé", options), [1, 4, 5, 3, 0]);
    assert_eq!(tokenizer.encode("</s>", options), [1, 4, 0, 0, 0, 0], "not parsed: text");
    assert_eq!(tokenizer.encode("<0x41>", options), [1, 4, 0, 0, 0, 0, 0, 0], "a byte token's name is text");
    assert_eq!(tokenizer.encode("", options), [1]);
}

#[test]
fn ends_of_turns_are_known_by_name_and_by_key() {
    let specials: &[(&str, i64)] =
        &[("<|im_end|>", 4), ("<|eot_id|>", 3), ("<|end|>", 3), ("x", 3), ("</s>", 3)];
    let metadata = with(byte_vocab::metadata("qwen2", specials), "eot_token_id", Some(Value::Uint(259)));
    let tokenizer = Tokenizer::from_metadata(&metadata).expect("valid");
    assert_eq!(tokenizer.end_tokens(), [256, 257, 258, 259, 260]);
    assert!(tokenizer.is_special(256), "a turn marker is control whatever the file calls it");
    // In gpt-oss's format <|end|> closes a message and not the reply.
    let harmony: &[(&str, i64)] = &[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)];
    let tokenizer = Tokenizer::from_metadata(&byte_vocab::metadata("gpt-2", harmony)).expect("valid");
    assert_eq!(tokenizer.end_tokens(), [257, 258]);
}

#[test]
fn ids_outside_the_vocabulary_are_harmless() {
    let tokenizer = Tokenizer::from_metadata(&byte_level()).expect("valid");
    assert_eq!(tokenizer.decode(&[72, u32::MAX, 257], false), "H");
    assert!(tokenizer.token_bytes(u32::MAX).is_empty());
    assert!(!tokenizer.is_special(u32::MAX));
    assert_eq!(tokenizer.token_id("no such token"), None);
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(256));
}

#[test]
fn any_bytes_are_encoded_and_come_back() {
    for pre in ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "default"] {
        let specials: &[(&str, i64)] = &[("<|a|>", 3), ("<|a|>b", 3), ("  ", 4), ("<t>", 4)];
        let tokenizer = Tokenizer::from_metadata(&byte_vocab::metadata(pre, specials)).expect("valid");
        let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
        let byte = prop_oneof![any::<u8>(), proptest::sample::select(b"<|a>bt 1\n\xe4\xb8\xad\xf0".to_vec())];
        let bytes = proptest::collection::vec(byte, 0..64);
        let result = proptest::test_runner::TestRunner::new(config).run(&bytes, |bytes| {
            for parse_special in [true, false] {
                let options = EncodeOptions { add_special: false, parse_special };
                let ids = tokenizer.encode_bytes(&bytes, options);
                let back: Vec<u8> =
                    ids.iter().flat_map(|id| tokenizer.token_bytes(*id).into_owned()).collect();
                prop_assert_eq!(&back, &bytes);
            }
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{pre}: {error}"));
    }
}
