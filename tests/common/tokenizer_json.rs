//! Hugging Face's `tokenizer.json` as GGUF metadata, for tests: one vocabulary for our tokenizer and the reference.
#![allow(dead_code, reason = "each test binary uses a part")]

use lamplight::formats::metadata::{Metadata, StringArray, Value};
use serde_json::Value as Json;

const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

fn insert(metadata: &mut Metadata, key: &str, value: Value) {
    metadata.insert(format!("tokenizer.ggml.{key}"), value).expect("a key is set once");
}

/// Strings as a metadata value.
pub(crate) fn strings<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Value {
    let mut array = StringArray::default();
    for text in list {
        assert!(array.push(text.as_ref().as_bytes()));
    }
    Value::Strings(array)
}

/// The `pre` name of a `pre_tokenizer` section.
fn pre_name(tokenizer: &Json) -> &'static str {
    let text = tokenizer["pre_tokenizer"].to_string();
    if text.contains("Digits") {
        "smollm"
    } else if text.contains("{1,3}") {
        if tokenizer["model"]["ignore_merges"] == true { "llama-bpe" } else { "smaug-bpe" }
    } else if text.contains("\\\\p{N}|") {
        "qwen2"
    } else {
        "gpt-2"
    }
}

/// Merges as pairs; files have "a b" or ["a", "b"].
pub(crate) fn merges(tokenizer: &Json) -> Vec<(String, String)> {
    let list = tokenizer["model"]["merges"].as_array().expect("merges");
    list.iter()
        .map(|merge| match merge {
            Json::String(text) => {
                let (left, right) = text.split_once(' ').expect("two tokens");
                (left.to_string(), right.to_string())
            }
            pair => (pair[0].as_str().expect("text").into(), pair[1].as_str().expect("text").into()),
        })
        .collect()
}

/// Metadata of a BPE tokenizer.json, byte-level or with byte fallback (SentencePiece).
pub(crate) fn to_metadata(tokenizer: &Json) -> Metadata {
    let vocab = tokenizer["model"]["vocab"].as_object().expect("a BPE vocabulary");
    let added = tokenizer["added_tokens"].as_array().expect("added tokens");
    let id_of = |value: &Json| value.as_u64().expect("an id") as usize;
    let last = vocab.values().map(id_of).chain(added.iter().map(|token| id_of(&token["id"]))).max();
    let n_vocab = last.expect("tokens") + 1;
    let mut texts: Vec<String> = (0..n_vocab).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![5i64; n_vocab];
    for (text, id) in vocab {
        let id = id_of(id);
        texts[id] = text.clone();
        kinds[id] = if text.starts_with("<0x") && text.len() == 6 { BYTE } else { 1 };
    }
    for token in added {
        let id = id_of(&token["id"]);
        texts[id] = token["content"].as_str().expect("text").to_string();
        kinds[id] = if token["special"] == true { CONTROL } else { USER_DEFINED };
    }
    let merges = merges(tokenizer);
    let mut metadata = Metadata::default();
    if tokenizer["model"]["byte_fallback"] == true {
        // SentencePiece merges by score: the earlier a merge, the higher the score of what it makes.
        let mut scores = vec![0f32; n_vocab];
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            let id = id_of(&vocab[&format!("{left}{right}")]);
            scores[id] = -(rank as f32) - 1.0;
        }
        insert(&mut metadata, "model", Value::String("llama".into()));
        insert(&mut metadata, "scores", Value::Floats(scores));
        let prefix = tokenizer["normalizer"].to_string().contains("Prepend");
        insert(&mut metadata, "add_space_prefix", Value::Bool(prefix));
    } else {
        insert(&mut metadata, "model", Value::String("gpt2".into()));
        insert(&mut metadata, "pre", Value::String(pre_name(tokenizer).into()));
        insert(
            &mut metadata,
            "merges",
            strings(merges.iter().map(|(left, right)| format!("{left} {right}"))),
        );
    }
    // The template of the post-processor tells whether a text begins with a token.
    let post = tokenizer["post_processor"].to_string();
    let begins = |text: &str| post.contains(&format!("\"single\":[{{\"SpecialToken\":{{\"id\":\"{text}\""));
    let bos = (0..n_vocab).find(|id| kinds[*id] == CONTROL && begins(&texts[*id]));
    insert(&mut metadata, "add_bos_token", Value::Bool(bos.is_some()));
    if let Some(bos) = bos {
        insert(&mut metadata, "bos_token_id", Value::Uint(bos as u64));
    }
    insert(&mut metadata, "tokens", strings(&texts));
    insert(&mut metadata, "token_type", Value::Ints(kinds));
    metadata
}

/// Adds what `tokenizer_config.json` says: the tokens that begin and end a text.
pub(crate) fn add_config(metadata: &mut Metadata, config: &Json) {
    for (name, key) in
        [("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("unk_token", "unknown_token_id")]
    {
        let token = &config[name];
        let Some(text) = token.as_str().or_else(|| token["content"].as_str()) else {
            continue;
        };
        let texts = metadata.strings("tokenizer.ggml.tokens").expect("strings").expect("tokens");
        let id = texts.iter().position(|other| other == text.as_bytes());
        metadata.remove(&format!("tokenizer.ggml.{key}"));
        insert(metadata, key, Value::Uint(id.expect("a token") as u64));
    }
}
