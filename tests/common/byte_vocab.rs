//! A byte-level vocabulary without merges: 256 bytes and some special tokens. Enough wherever the merges do not matter.

use lamplight::formats::metadata::{Metadata, StringArray, Value};

/// GPT-2's printable alphabet.
fn alphabet() -> Vec<char> {
    let visible = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0x100..;
    (0..256u32)
        .map(|byte| if visible(byte) { byte } else { hidden.next().expect("endless") })
        .map(|code| char::from_u32(code).expect("a character"))
        .collect()
}

/// Metadata of a `gpt2` tokenizer with the bytes as tokens 0 to 255, followed by `specials` of the GGUF type given.
pub(crate) fn metadata(pre: &str, specials: &[(&str, i64)]) -> Metadata {
    let mut tokens = StringArray::default();
    let mut types = vec![1i64; 256];
    for c in alphabet() {
        assert!(tokens.push(c.to_string().as_bytes()));
    }
    for (text, kind) in specials {
        assert!(tokens.push(text.as_bytes()));
        types.push(*kind);
    }
    let mut metadata = Metadata::default();
    let mut insert = |key: &str, value| {
        metadata.insert(format!("tokenizer.ggml.{key}"), value).expect("a key is set once");
    };
    for (name, key) in [("<s>", "bos_token_id"), ("</s>", "eos_token_id")] {
        if let Some(at) = specials.iter().position(|(text, _)| *text == name) {
            insert(key, Value::Uint(256 + at as u64));
        }
    }
    insert("model", Value::String("gpt2".into()));
    insert("pre", Value::String(pre.into()));
    insert("tokens", Value::Strings(tokens));
    insert("token_type", Value::Ints(types));
    insert("merges", Value::Strings(StringArray::default()));
    metadata
}
