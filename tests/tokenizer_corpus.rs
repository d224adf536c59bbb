//! Our tokenizer against the `tokenizers` crate on a mixed corpus: one real vocabulary (the first 6000 merges of SmolLM2's)
//! under every pre-tokenizer and as SentencePiece, and the whole vocabulary of a model file where there is one.
#![cfg(not(target_arch = "wasm32"))]

#[path = "common/corpus.rs"]
mod corpus;
#[path = "common/tokenizer_json.rs"]
mod tokenizer_json;

use lamplight::formats::gguf::{Parsed, parse};
use lamplight::text::{Detokenizer, EncodeOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn parsed() -> EncodeOptions {
    EncodeOptions { add_special: false, parse_special: true }
}

/// The committed vocabulary with another pre-tokenizer.
fn byte_level(pre: &str) -> Json {
    let text = std::fs::read("tests/tokenizers/smollm2_6000.json").expect("the committed vocabulary");
    let mut tokenizer: Json = serde_json::from_slice(&text).expect("JSON");
    let split = |regex: String| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]})
    };
    match pre {
        "smollm" => {}
        "gpt-2" => tokenizer["pre_tokenizer"] = tokenizer["pre_tokenizer"]["pretokenizers"][1].take(),
        "llama-bpe" => {
            tokenizer["pre_tokenizer"] = split(LLAMA3.into());
            tokenizer["model"]["ignore_merges"] = json!(true);
        }
        "qwen2" => {
            tokenizer["pre_tokenizer"] = split(LLAMA3.replace("{1,3}", ""));
            tokenizer["normalizer"] = json!({"type": "NFC"});
        }
        other => panic!("{other}?"),
    }
    tokenizer
}

/// The committed vocabulary as SentencePiece would have it: whole characters, ▁ for a space, bytes as fallback, and
/// every pair that makes a token as a merge.
fn sentence_piece() -> Json {
    let source = byte_level("smollm");
    let mut vocab = serde_json::Map::new();
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    texts.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let first = texts.len();
    let pieces = tokenizer_json::merges(&source).into_iter().map(|(left, right)| left + &right);
    // Tokens that are one byte each, in the alphabet, and therefore the same text for ASCII.
    let ascii = (0x21..0x7fu8).map(|byte| (byte as char).to_string()).chain(["▁".to_string()]);
    for piece in ascii.chain(pieces.filter(|piece| piece.chars().all(|c| c.is_ascii() || c == 'Ġ'))) {
        let piece = piece.replace('Ġ', "▁");
        if !texts.contains(&piece) {
            texts.push(piece);
        }
    }
    for (id, text) in texts.iter().enumerate() {
        vocab.insert(text.clone(), json!(id));
    }
    let mut merges = Vec::new();
    for text in &texts[first..] {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let added = |id: usize| {
        json!({"id": id, "content": texts[id], "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0), added(1), added(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
}

/// Our tokenizer and the reference from one tokenizer.json.
fn both(json: &Json) -> (Tokenizer, tokenizers::Tokenizer) {
    let ours = Tokenizer::from_metadata(&tokenizer_json::to_metadata(json)).expect("ours accepts it");
    let reference = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("the reference accepts it");
    (ours, reference)
}

fn reference_ids(reference: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    reference.encode_fast(text, false).expect("encodes").get_ids().to_vec()
}

fn check(name: &str, json: &Json) {
    let (from_gguf, reference) = both(json);
    let from_hf = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect("ours accepts it");
    for ours in [from_gguf, from_hf] {
        check_one(name, &ours, &reference);
    }
}

fn check_one(name: &str, ours: &Tokenizer, reference: &tokenizers::Tokenizer) {
    for text in corpus::texts() {
        let want = reference_ids(reference, &text);
        let got = ours.encode(&text, parsed());
        assert_eq!(got, want, "{name}: {text:?}");
        for skip in [true, false] {
            assert_eq!(
                ours.decode(&want, skip),
                reference.decode(&want, skip).expect("decodes"),
                "{name}: decoding {text:?}"
            );
        }
    }
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let result = proptest::test_runner::TestRunner::new(config).run(&corpus::mixtures(), |text| {
        prop_assert_eq!(ours.encode(&text, parsed()), reference_ids(reference, &text), "{:?}", text);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn smollm_encodes_as_the_reference() {
    check("smollm", &byte_level("smollm"));
}

#[test]
fn gpt2_encodes_as_the_reference() {
    check("gpt-2", &byte_level("gpt-2"));
}

#[test]
fn llama3_encodes_as_the_reference() {
    check("llama-bpe", &byte_level("llama-bpe"));
}

#[test]
fn qwen2_encodes_as_the_reference() {
    check("qwen2", &byte_level("qwen2"));
}

#[test]
fn sentence_piece_encodes_as_the_reference() {
    check("sentence piece", &sentence_piece());
}

#[test]
fn a_megabyte_without_a_space_is_encoded() {
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    let random: String = (0..1 << 20).map(|_| letter()).collect();
    let inputs = [
        "a".repeat(1 << 20),
        random,
        "中文".repeat(1 << 17),
        "'".repeat(1 << 20),
        "<|im_".repeat(1 << 17),
        " ".repeat(1 << 20),
        "\n".repeat(1 << 20),
        "1".repeat(1 << 20),
    ];
    for json in [byte_level("smollm"), byte_level("llama-bpe"), byte_level("qwen2"), sentence_piece()] {
        let tokenizer = Tokenizer::from_metadata(&tokenizer_json::to_metadata(&json)).expect("valid");
        for input in &inputs {
            let ids = tokenizer.encode(input, parsed());
            assert_eq!(tokenizer.decode(&ids, false), *input);
        }
    }
}

/// All bytes of a token sequence.
fn bytes_of(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| tokenizer.token_bytes(*id).into_owned()).collect()
}

#[test]
fn bytes_that_are_not_utf8_survive_where_the_vocabulary_has_them() {
    // SmolLM2 has no tokens for 21 bytes that no UTF-8 text has; SentencePiece has all 256.
    let tokenizer = Tokenizer::from_metadata(&tokenizer_json::to_metadata(&sentence_piece())).expect("valid");
    let inputs: [&[u8]; 6] = [
        b"\xff",
        b"a\x80\x81b",
        b"\xf0\x9f\xa6",
        b"caf\xe9 \xc3",
        b"\xed\xa0\x80",
        b"\xc0\xaf \xfe\xff<s>\x9f",
    ];
    for input in inputs {
        let ids = tokenizer.encode_bytes(input, EncodeOptions::default());
        assert_eq!(bytes_of(&tokenizer, &ids), [b" ", input].concat(), "{input:?}");
    }
    let tokenizer =
        Tokenizer::from_metadata(&tokenizer_json::to_metadata(&byte_level("llama-bpe"))).expect("valid");
    for input in [&b"a\x80\x81b"[..], b"\xf0\x9f\xa6", b"caf\xe9 \xc3"] {
        let ids = tokenizer.encode_bytes(input, EncodeOptions::default());
        assert_eq!(bytes_of(&tokenizer, &ids), input, "{input:?}");
    }
}

#[test]
fn streaming_gives_what_decoding_at_once_gives() {
    for json in [byte_level("smollm"), sentence_piece()] {
        let tokenizer = Tokenizer::from_metadata(&tokenizer_json::to_metadata(&json)).expect("valid");
        let n = tokenizer.n_vocab() as u32;
        // The low ids hold the single bytes, of which broken characters are made.
        let id = prop_oneof![0..300u32.min(n), 0..n + 3];
        let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
        let ids = proptest::collection::vec(id, 0..24);
        let result = proptest::test_runner::TestRunner::new(config).run(&ids, |ids| {
            let mut detokenizer = Detokenizer::new(&tokenizer);
            let mut text = String::new();
            for id in &ids {
                text += &detokenizer.push(&tokenizer, *id);
            }
            text += &detokenizer.finish();
            prop_assert_eq!(&text, &tokenizer.decode(&ids, true));
            let shown: Vec<u32> = ids.iter().copied().filter(|id| !tokenizer.is_special(*id)).collect();
            let mut detokenizer = Detokenizer::continuing();
            let mut text: String = shown.iter().map(|id| detokenizer.push(&tokenizer, *id)).collect();
            text += &detokenizer.finish();
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes_of(&tokenizer, &shown)).into_owned());
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_split_character_is_held_back_until_it_is_whole() {
    let tokenizer = Tokenizer::from_metadata(&tokenizer_json::to_metadata(&sentence_piece())).expect("valid");
    let byte = |byte: u8| tokenizer.token_id(&format!("<0x{byte:02X}>")).expect("a byte token");
    let mut detokenizer = Detokenizer::new(&tokenizer);
    let crab: Vec<String> = "🦀".bytes().map(|b| detokenizer.push(&tokenizer, byte(b))).collect();
    assert_eq!(crab, ["", "", "", "🦀"]);
    assert_eq!(detokenizer.push(&tokenizer, byte(0xf0)), "");
    assert_eq!(detokenizer.push(&tokenizer, byte(b'a')), "\u{fffd}a", "certain now that it is no character");
    assert_eq!(detokenizer.push(&tokenizer, byte(0xe4)), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn further_vocabularies_encode_as_the_reference() {
    let Some(list) = std::env::var_os("LAMPLIGHT_TOKENIZERS") else {
        eprintln!("skipped: LAMPLIGHT_TOKENIZERS may list tokenizer.json files, parted like PATH");
        return;
    };
    for path in std::env::split_paths(&list) {
        let json = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        check(&path.display().to_string(), &serde_json::from_slice(&json).expect("JSON"));
    }
}

/// The first GGUF file of `LAMPLIGHT_MODEL` or `models/`.
fn model_file() -> Option<std::path::PathBuf> {
    if let Some(path) = std::env::var_os("LAMPLIGHT_MODEL") {
        return Some(path.into());
    }
    let mut files: Vec<_> =
        std::fs::read_dir("models").ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "gguf"))
}

#[test]
fn the_whole_vocabulary_of_a_real_model_encodes_as_the_reference() {
    let Some(path) = model_file() else {
        eprintln!("skipped: set LAMPLIGHT_MODEL to a SmolLM2 GGUF file, or put one into models/");
        return;
    };
    let bytes = std::fs::read(&path).expect("readable");
    let Ok(Parsed::Header(header)) = parse(&bytes, Some(bytes.len() as u64)) else {
        panic!("{}: no whole header", path.display());
    };
    let metadata = &header.metadata;
    if metadata.str("tokenizer.ggml.pre").expect("a string") != Some("smollm") {
        eprintln!("skipped: {} is no SmolLM", path.display());
        return;
    }
    let ours = Tokenizer::from_metadata(metadata).expect("a real vocabulary");
    let list = |key: &str| -> Vec<String> {
        let strings = metadata.strings(key).expect("strings").expect("present");
        strings.iter().map(|text| String::from_utf8(text.to_vec()).expect("UTF-8")).collect()
    };
    let tokens = list("tokenizer.ggml.tokens");
    let mut json = byte_level("smollm");
    json["model"]["vocab"] = tokens.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
    json["model"]["merges"] = json!(list("tokenizer.ggml.merges"));
    for token in json["added_tokens"].as_array_mut().expect("a list") {
        let text = token["content"].as_str().expect("text");
        token["id"] = json!(ours.token_id(text).expect("a special token"));
    }
    let reference = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("accepted");
    for text in corpus::texts() {
        let ids = ours.encode(&text, parsed());
        assert_eq!(ids, reference_ids(&reference, &text), "{text:?}");
    }
    assert_eq!(ours.end_tokens(), [0, 2]);
}
