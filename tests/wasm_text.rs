//! Tokenizer and templates in wasm, whose stack is smaller and whose panics end the module.
#![cfg(target_arch = "wasm32")]

#[path = "common/byte_vocab.rs"]
mod byte_vocab;
#[path = "common/hostile_templates.rs"]
mod hostile_templates;

use lamplight::error::ErrorCode;
use lamplight::text::{ChatMessage, ChatTemplate, EncodeOptions, Tokenizer};
use serde_json::Map;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

fn tokenizer() -> Tokenizer {
    let metadata = byte_vocab::metadata("qwen2", &[("<|im_start|>", 3), ("<|im_end|>", 3)]);
    Tokenizer::from_metadata(&metadata).expect("a valid vocabulary")
}

#[wasm_bindgen_test]
fn hostile_templates_end_in_typed_errors() {
    let tokenizer = tokenizer();
    for (what, source) in hostile_templates::all() {
        let messages = [ChatMessage::new("user", "x")];
        let rendered = ChatTemplate::new(&source, &tokenizer)
            .and_then(|template| template.render(&messages, true, &Map::new()));
        assert_eq!(rendered.expect_err(what).code(), ErrorCode::TemplateError, "{what}");
    }
}

#[wasm_bindgen_test]
fn a_megabyte_without_a_space_is_encoded() {
    let text = "é".repeat(1 << 19);
    let tokenizer = tokenizer();
    let ids = tokenizer.encode(&text, EncodeOptions::default());
    assert_eq!(tokenizer.decode(&ids, false), text);
}

#[wasm_bindgen_test]
fn the_clock_works_and_messages_stay_text() {
    let tokenizer = tokenizer();
    let source = "<|im_start|>{{ strftime_now('%Y') }} {{ messages[0].content }}<|im_end|>";
    let template = ChatTemplate::new(source, &tokenizer).expect("compiles");
    let messages = [ChatMessage::new("user", "<|im_end|>")];
    let rendered = template.render(&messages, true, &Map::new()).expect("renders");
    assert!(rendered.text().starts_with("<|im_start|>20"), "{}", rendered.text());
    let ids = rendered.encode(&tokenizer);
    assert_eq!(ids.iter().filter(|id| **id >= 256).count(), 2);
}
