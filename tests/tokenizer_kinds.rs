//! WordPiece, Unigram, gemma4 and World vocabularies from tokenizer.json and from GGUF, against the `tokenizers` crate on a
//! mixed corpus.
#![cfg(not(target_arch = "wasm32"))]

#[path = "common/corpus.rs"]
mod corpus;
#[path = "common/tokenizer_json.rs"]
mod tokenizer_json;

use lamplight::formats::metadata::{Metadata, Value};
use lamplight::text::{EncodeOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WHOLE: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn read(path: &str) -> Json {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The pieces of SmolLM2's first merges that are plain words and parts of words, `Ġ` for a space.
fn pieces() -> Vec<String> {
    let source = read("tests/tokenizers/smollm2_6000.json");
    let merged = tokenizer_json::merges(&source).into_iter().map(|(left, right)| left + &right);
    merged.filter(|piece| piece.chars().all(|c| c.is_ascii_alphanumeric() || c == 'Ġ')).collect()
}

fn special(id: usize, content: &str) -> Json {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

/// BERT's tokenizer over the pieces.
fn word_piece(lowercase: bool) -> Json {
    let mut texts: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).to_vec();
    let singles = ('!'..='~').chain("éÄßñ中国人あ한Жд。，…".chars()).map(String::from);
    let words = pieces().into_iter().flat_map(|piece| match piece.strip_prefix('Ġ') {
        Some(word) if !word.contains('Ġ') => vec![word.to_string()],
        None => vec![format!("##{piece}")],
        _ => Vec::new(),
    });
    let continued = ('0'..='z').filter(char::is_ascii_alphanumeric).map(|c| format!("##{c}"));
    for text in singles.chain(continued).chain(words) {
        let text = if lowercase { text.to_lowercase() } else { text };
        if !text.is_empty() && !texts.contains(&text) {
            texts.push(text);
        }
    }
    let vocab: serde_json::Map<String, Json> =
        texts.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": texts[..5].iter().enumerate().map(|(id, text)| special(id, text)).collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

/// Gemma's kind of BPE: visible spaces, characters, bytes as fallback; the merges of a text are those of its pieces.
fn gemma() -> Json {
    let mut texts: Vec<String> = ["<pad>", "<eos>", "<bos>", "<unk>"].map(String::from).to_vec();
    texts.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    texts.extend(["\n\n".to_string(), "\n".to_string(), "▁".to_string()]);
    texts.extend(('!'..='~').map(String::from));
    let mut merges = vec![json!(["\n", "\n"])];
    for piece in pieces() {
        let piece = piece.replace('Ġ', "▁");
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            let known = |text: &str| texts.iter().any(|known| known == text);
            if known(left) && known(right) {
                merges.push(json!([left, right]));
            }
        }
        if !texts.contains(&piece) {
            texts.push(piece);
        }
    }
    let vocab: serde_json::Map<String, Json> =
        texts.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": texts[..4].iter().enumerate().map(|(id, text)| special(id, text)).collect::<Vec<_>>(),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
}

fn metadata(entries: Vec<(&str, Value)>) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in entries {
        metadata.insert(format!("tokenizer.ggml.{key}"), value).expect("a key is set once");
    }
    metadata
}

/// The texts of a vocabulary in the order of their ids.
fn texts_of(json: &Json) -> Vec<String> {
    if let Some(list) = json["model"]["vocab"].as_array() {
        return list.iter().map(|entry| entry[0].as_str().expect("text").to_string()).collect();
    }
    let vocab = json["model"]["vocab"].as_object().expect("a map");
    let mut texts = vec![String::new(); vocab.len()];
    for (text, id) in vocab {
        texts[id.as_u64().expect("an id") as usize] = text.clone();
    }
    texts
}

/// Equal ids, with special tokens and without, on the corpus and at least 2000 mixtures of it; and equal texts back.
fn check(name: &str, json: &Json, tokenizers: &[Tokenizer], same_text: bool) {
    let reference = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("the reference accepts it");
    let ids = |text: &str, special| reference.encode_fast(text, special).expect("encodes").get_ids().to_vec();
    for tokenizer in tokenizers {
        for text in corpus::texts() {
            let want = ids(&text, false);
            assert_eq!(tokenizer.encode(&text, PLAIN), want, "{name}: {text:?}");
            assert_eq!(tokenizer.encode(&text, WHOLE), ids(&text, true), "{name}: {text:?}");
            if same_text {
                let decoded = reference.decode(&want, false).expect("decodes");
                assert_eq!(tokenizer.decode(&want, false), decoded, "{name}: decoding {text:?}");
            }
        }
        let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
        let result = proptest::test_runner::TestRunner::new(config).run(&corpus::mixtures(), |text| {
            prop_assert_eq!(tokenizer.encode(&text, PLAIN), ids(&text, false), "{:?}", text);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn word_piece_encodes_as_the_reference() {
    for lowercase in [true, false] {
        let json = word_piece(lowercase);
        let from_hf = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("valid");
        let texts = texts_of(&json);
        // GGUF marks the beginnings of words instead of their continuations.
        let marked = texts.iter().enumerate().map(|(id, text)| match text.strip_prefix("##") {
            _ if id < 5 => text.clone(),
            Some(continued) if !continued.is_empty() => continued.to_string(),
            _ => format!("▁{text}"),
        });
        let kinds = (0..texts.len()).map(|id| if id < 5 { 3 } else { 1 }).collect();
        let from_gguf = Tokenizer::from_metadata(&metadata(vec![
            ("model", Value::String("bert".into())),
            ("tokens", tokenizer_json::strings(marked)),
            ("token_type", Value::Ints(kinds)),
            ("bos_token_id", Value::Uint(2)),
            ("unknown_token_id", Value::Uint(1)),
            ("seperator_token_id", Value::Uint(3)),
            ("normalizer.lowercase", Value::Bool(lowercase)),
        ]));
        check("WordPiece", &json, &[from_hf, from_gguf.expect("valid")], true);
    }
}

#[test]
fn unigram_encodes_as_the_reference() {
    let json = read("tests/tokenizers/unigram_600.json");
    let from_hf = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("valid");
    check("Unigram", &json, &[from_hf], false);
    // With bytes as fallback.
    let mut json = json;
    let vocab = json["model"]["vocab"].as_array_mut().expect("a list");
    vocab.extend((0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), -20.0])));
    json["model"]["byte_fallback"] = json!(true);
    let from_hf = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("valid");
    check("Unigram with bytes", &json, &[from_hf], false);
}

#[test]
fn t5_files_encode_as_tokenizer_json_does() {
    let json = read("tests/tokenizers/unigram_600.json");
    let from_hf = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("valid");
    let list = json["model"]["vocab"].as_array().expect("a list");
    let scores = list.iter().map(|entry| entry[1].as_f64().expect("a score") as f32).collect();
    let base64 = json["normalizer"]["normalizers"][0]["precompiled_charsmap"].as_str().expect("text");
    let kinds = (0..list.len()).map(|id| [3, 3, 2].get(id).copied().unwrap_or(1)).collect();
    let from_gguf = Tokenizer::from_metadata(&metadata(vec![
        ("model", Value::String("t5".into())),
        ("tokens", tokenizer_json::strings(texts_of(&json))),
        ("scores", Value::Floats(scores)),
        ("token_type", Value::Ints(kinds)),
        ("precompiled_charsmap", Value::Uints(corpus::base64(base64))),
        ("remove_extra_whitespaces", Value::Bool(true)),
        ("add_space_prefix", Value::Bool(true)),
        ("eos_token_id", Value::Uint(1)),
    ]))
    .expect("valid");
    for text in
        ["Hello, world. ﬁne Ⅷ １２ cafe\u{301} 中文", "a  b   c", "tabs\tand\nlines", "x", "</s> <unk>"]
    {
        assert_eq!(from_gguf.encode(text, WHOLE), from_hf.encode(text, WHOLE), "{text:?}");
    }
}

#[test]
fn gemma_encodes_as_the_reference() {
    let json = gemma();
    let from_hf = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("valid");
    let texts = texts_of(&json);
    let kinds = texts.iter().enumerate().map(|(id, text)| match text.len() {
        _ if id < 4 => 3,
        6 if text.starts_with("<0x") => 6,
        _ => 1,
    });
    let merges = tokenizer_json::merges(&json);
    let lines = merges.iter().map(|(left, right)| format!("{left} {right}"));
    let from_gguf = Tokenizer::from_metadata(&metadata(vec![
        ("model", Value::String("gemma4".into())),
        ("tokens", tokenizer_json::strings(&texts)),
        ("token_type", Value::Ints(kinds.collect())),
        ("merges", tokenizer_json::strings(lines)),
        ("bos_token_id", Value::Uint(2)),
        ("eos_token_id", Value::Uint(1)),
    ]));
    check("gemma", &json, &[from_hf, from_gguf.expect("valid")], true);
}

#[test]
fn long_runs_are_encoded_in_time() {
    let mut unigram = read("tests/tokenizers/unigram_600.json");
    // Tokens that are prefixes of each other make every position long.
    let vocab = unigram["model"]["vocab"].as_array_mut().expect("a list");
    vocab.extend((2..120).map(|n| json!(["a".repeat(n), -1.0 - n as f64])));
    let inputs = [
        "a".repeat(1 << 16),
        " ".repeat(1 << 16),
        "ab ".repeat(1 << 14),
        "\u{301}".repeat(1 << 14),
        "中".repeat(1 << 14),
    ];
    for json in [unigram, word_piece(true), gemma()] {
        let tokenizer = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("valid");
        for input in &inputs {
            let ids = tokenizer.encode(input, PLAIN);
            assert!(ids.len() <= input.len() + 1, "{} ids", ids.len());
        }
    }
}

/// A World vocabulary as llama.cpp's converter writes it: Python's literals of bytes, without their quotes.
fn world_metadata(tokens: impl Iterator<Item = Vec<u8>>) -> Metadata {
    let literal = |token: Vec<u8>| {
        let quote = if token.contains(&b'\'') && !token.contains(&b'"') { b'"' } else { b'\'' };
        let escape = |byte: u8| match byte {
            b'\t' => "\\t".to_string(),
            b'\n' => "\\n".to_string(),
            b'\r' => "\\r".to_string(),
            byte if byte == quote || byte == b'\\' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        token.into_iter().map(escape).collect::<String>()
    };
    let texts: Vec<String> = std::iter::once("<s>".to_string()).chain(tokens.map(literal)).collect();
    // What the part of the vocabulary lacks is unused.
    let types = texts.iter().enumerate().map(|(id, text)| {
        if id == 0 {
            3
        } else if text.is_empty() {
            5
        } else {
            1
        }
    });
    metadata(vec![
        ("model", Value::String("rwkv".into())),
        ("token_type", Value::Ints(types.collect())),
        ("tokens", tokenizer_json::strings(texts)),
        ("eos_token_id", Value::Uint(0)),
    ])
}

#[test]
fn world_encodes_as_the_reference() {
    // The reference knows no special tokens in texts.
    const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
    let vocabulary = std::fs::read_to_string("tests/tokenizers/world.txt").expect("committed");
    let published = Tokenizer::from_rwkv_vocab(&vocabulary).expect("valid");
    let bytes = |id: u32| published.token_bytes(id).into_owned();
    let gguf = Tokenizer::from_metadata(&world_metadata((1..65530).map(bytes))).expect("valid");
    let cases = read("tests/tokenizers/world.json");
    for case in cases.as_array().expect("a list") {
        let text = case[0].as_str().expect("a text");
        let want: Vec<u32> = serde_json::from_value(case[1].clone()).expect("ids");
        for tokenizer in [&published, &gguf] {
            assert_eq!(tokenizer.encode(text, TEXT), want, "{text:?}");
            assert_eq!(tokenizer.decode(&want, false), text);
        }
    }
    // What the reference does, the naive way: the longest token that the rest begins with.
    let tokens: std::collections::HashMap<Vec<u8>, u32> =
        (1..65530).map(|id| (bytes(id), id)).filter(|(token, _)| !token.is_empty()).collect();
    let longest = tokens.keys().map(Vec::len).max().expect("tokens");
    let naive = |mut bytes: &[u8]| {
        let mut ids = Vec::new();
        while !bytes.is_empty() {
            let lengths = (1..=longest.min(bytes.len())).rev();
            let (len, id) = lengths
                .filter_map(|len| tokens.get(&bytes[..len]).map(|id| (len, *id)))
                .next()
                .expect("every byte is a token");
            ids.push(id);
            bytes = &bytes[len..];
        }
        ids
    };
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let result = proptest::test_runner::TestRunner::new(config).run(&corpus::mixtures(), |text| {
        let want = naive(text.as_bytes());
        prop_assert_eq!(&published.encode(&text, TEXT), &want, "{:?}", text);
        prop_assert_eq!(&gguf.encode(&text, TEXT), &want, "{:?}", text);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn world_vocabularies_take_the_longest_token() {
    let lines = (1..=256).map(|id| format!("{id} b'\\x{:02x}' 1", id - 1));
    let words =
        ["'hello' 5", "' wor' 4", "' world' 6", "'\\n\\n' 2", "\"it's\" 4", "'\\u4e2d' 3", "'\\\\' 1"];
    let words = words.iter().enumerate().map(|(i, word)| format!("{} {word}", 257 + i));
    let text = lines.chain(words).collect::<Vec<_>>().join("\n");
    let world = Tokenizer::from_rwkv_vocab(&text).expect("valid");
    assert_eq!(world.encode("hello world\n\n", PLAIN), [257, 259, 260]);
    assert_eq!(world.encode("it's 中\\", PLAIN), [261, 33, 262, 263]);
    assert_eq!(world.encode(" worl", PLAIN), [258, u32::from(b'l') + 1]);
    assert_eq!(world.end_tokens(), [0]);
    let bytes: Vec<u8> = (0..=255).rev().chain(0..=255).collect();
    let back: Vec<u8> =
        world.encode_bytes(&bytes, PLAIN).iter().flat_map(|id| world.token_bytes(*id).into_owned()).collect();
    assert_eq!(back, bytes);
    // GGUF has the literals of bytes without their quotes.
    let list = ["<s>", "\\n", "a", "\\xe4\\xb8\\xad", "it\\'s", "\\\\"];
    let from_gguf = Tokenizer::from_metadata(&metadata(vec![
        ("model", Value::String("rwkv".into())),
        ("tokens", tokenizer_json::strings(list)),
        ("token_type", Value::Ints(vec![3, 1, 1, 1, 1, 1])),
        ("eos_token_id", Value::Uint(0)),
    ]));
    let from_gguf = from_gguf.expect("valid");
    assert_eq!(from_gguf.encode("中\nit's\\a", WHOLE), [3, 1, 4, 5, 2]);
    assert_eq!(from_gguf.end_tokens(), [0]);
    for bad in ["1 'a'", "x 'a' 1", "1 'ab' 1", "1 'a 1", "1 a 1", "1 '\\q' 1", "0 'a' 1", "99999999 'a' 1"] {
        let error = Tokenizer::from_rwkv_vocab(bad).expect_err(bad);
        assert!(error.field().is_some(), "{bad}: {error}");
    }
}
