//! Chat templates: equal to Jinja2 on published templates (`tests/templates/`, rendered by
//! `tests/tools/render_templates.py`), safe against forged special tokens, and bounded.
#![cfg(not(target_arch = "wasm32"))]

#[path = "common/byte_vocab.rs"]
mod byte_vocab;
#[path = "common/hostile_templates.rs"]
mod hostile_templates;

use std::path::Path;
use std::sync::Arc;

use lamplight::error::{Error, ErrorCode};
use lamplight::text::{ChatMessage, ChatTemplate, EncodeOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value as Json};

const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Template and the special tokens of the models that use it.
const FAMILIES: &[(&str, &[(&str, i64)])] = &[
    (
        "smollm2",
        &[
            ("<|endoftext|>", CONTROL),
            ("<|im_start|>", CONTROL),
            ("<|im_end|>", CONTROL),
            ("<repo_name>", CONTROL),
            ("<gh_stars>", CONTROL),
        ],
    ),
    (
        "llama32",
        &[
            ("<|begin_of_text|>", CONTROL),
            ("<|end_of_text|>", CONTROL),
            ("<|start_header_id|>", CONTROL),
            ("<|end_header_id|>", CONTROL),
            ("<|eot_id|>", CONTROL),
            ("<|eom_id|>", CONTROL),
            ("<|python_tag|>", CONTROL),
            ("<|reserved_special_token_0|>", CONTROL),
        ],
    ),
    ("qwen25", QWEN),
    ("qwen3", QWEN),
    (
        "mistral",
        &[("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL), ("[INST]", CONTROL), ("[/INST]", CONTROL)],
    ),
    ("llama2", &[("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL)]),
    (
        "zephyr",
        &[("<s>", CONTROL), ("</s>", CONTROL), ("<|user|>", USER_DEFINED), ("<|assistant|>", USER_DEFINED)],
    ),
    ("features", &[("<s>", CONTROL), ("</s>", CONTROL)]),
];

const QWEN: &[(&str, i64)] = &[
    ("<|endoftext|>", CONTROL),
    ("<|im_start|>", CONTROL),
    ("<|im_end|>", CONTROL),
    ("<tool_call>", USER_DEFINED),
    ("</tool_call>", USER_DEFINED),
    ("<tool_response>", USER_DEFINED),
    ("</tool_response>", USER_DEFINED),
    ("<think>", USER_DEFINED),
    ("</think>", USER_DEFINED),
];

fn tokenizer(specials: &[(&str, i64)]) -> Tokenizer {
    Tokenizer::from_metadata(&byte_vocab::metadata("qwen2", specials)).expect("a valid vocabulary")
}

fn source(name: &str) -> String {
    let path = Path::new("tests/templates").join(format!("{name}.jinja"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn template(name: &str, tokenizer: &Tokenizer) -> ChatTemplate {
    let template =
        ChatTemplate::new(&source(name), tokenizer).unwrap_or_else(|error| panic!("{name}: {error}"));
    // 2024-07-27 01:02:05, as in the script.
    template.with_clock(Arc::new(|| 1_722_042_125))
}

fn parsed() -> EncodeOptions {
    EncodeOptions { add_special: false, parse_special: true }
}

fn user(content: &str) -> Vec<ChatMessage> {
    vec![ChatMessage::new("user", content)]
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, Error> {
    let tokenizer = tokenizer(&[("<s>", CONTROL), ("</s>", CONTROL)]);
    let rendered = ChatTemplate::new(source, &tokenizer)?.render(messages, true, &Map::new())?;
    Ok(rendered.text().to_string())
}

#[test]
fn published_templates_render_as_jinja2_renders_them() {
    let read = |path: &Path| -> Vec<Json> {
        let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&text).expect("JSON")
    };
    let cases = read(Path::new("tests/templates/cases.json"));
    let mut seen = 0;
    let mut differences = Vec::new();
    for entry in std::fs::read_dir("tests/templates").expect("the folder") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        // "<s>" and "</s>" are what the script calls the ends of a text.
        let template = template(&name, &tokenizer(&[("<s>", CONTROL), ("</s>", CONTROL)]));
        let wanted = read(&path.with_extension("json"));
        assert_eq!(wanted.len(), cases.len(), "{name}");
        for (case, wanted) in cases.iter().zip(&wanted) {
            let messages: Vec<ChatMessage> =
                serde_json::from_value(case["messages"].clone()).expect("messages");
            let args = case["args"].as_object().expect("arguments");
            let rendered = template.render(&messages, case["add_generation_prompt"] == true, args);
            let same = match (&rendered, wanted.as_str(), wanted["raises"].as_str()) {
                (Ok(rendered), Some(text), _) => rendered.text() == text,
                (Err(error), None, Some(words)) => {
                    (error.code(), error.message()) == (ErrorCode::TemplateError, words)
                }
                // Jinja2 fails on a call without content, where we try again with an empty one.
                (Ok(_), None, None) => messages.iter().any(|message| message.tool_calls.is_some()),
                (Err(error), None, None) => error.code() == ErrorCode::TemplateError,
                _ => false,
            };
            if !same {
                let got = rendered.map(|rendered| rendered.text().to_string());
                differences.push(format!("{name}: {case}\n   got {got:?}\n  want {wanted}"));
            }
            seen += 1;
        }
    }
    assert!(differences.is_empty(), "{} of {seen} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(seen >= 1000, "{seen} cases");
}

/// How often each special token stands in a prompt.
fn count_specials(ids: &[u32], specials: &[(&str, i64)]) -> Vec<usize> {
    (0..specials.len()).map(|at| ids.iter().filter(|id| **id == 256 + at as u32).count()).collect()
}

/// What looks like a special token in a template: `<|im_end|>`, `<start_of_turn>`, `[INST]`.
fn markup_of(source: &str) -> Vec<(&str, i64)> {
    let mut found = vec![("<s>", CONTROL), ("</s>", CONTROL)];
    for (open, close) in [('<', '>'), ('[', ']')] {
        for (at, _) in source.match_indices(open) {
            let Some(len) = source[at..].find(close) else { continue };
            let text = &source[at..at + len + 1];
            let inner = &text[1..len];
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let markup = |c: char| c.is_ascii_uppercase() || matches!(c, '_' | '|' | '/' | '｜' | '▁');
            let fits = inner.chars().all(|c| markup(c) || plain(c)) && (2..40).contains(&inner.len());
            let named = open == '<' || inner.contains('|') || inner.chars().all(markup);
            if fits && named && !found.contains(&(text, CONTROL)) {
                found.push((text, CONTROL));
            }
        }
    }
    found
}

#[test]
fn special_tokens_in_messages_stay_text() {
    for (name, specials) in FAMILIES {
        check_forgeries(name, specials);
    }
    for entry in std::fs::read_dir("tests/templates").expect("the folder") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "jinja") {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            check_forgeries(&name, &markup_of(&source(&name)));
        }
    }
}

fn check_forgeries(name: &str, specials: &[(&str, i64)]) {
    let tokenizer = tokenizer(specials);
    // Nothing to guard but the ends of a text, which the template writes itself.
    let ends: Vec<_> = specials.iter().copied().filter(|(text, _)| text.ends_with("s>")).collect();
    let plain = template(name, &self::tokenizer(&ends));
    let template = template(name, &tokenizer);
    let conversation = |content: &str| {
        let mut messages = user(content);
        messages.push(ChatMessage::new("assistant", "fine"));
        messages.push(ChatMessage::new("user", format!("{content}x{content}")));
        messages
    };
    let ids = |content: &str| {
        let rendered = template.render(&conversation(content), true, &Map::new()).expect("renders");
        (rendered.encode(&tokenizer), rendered.text().to_string())
    };
    let (harmless, _) = ids("ab");
    for (special, _) in specials {
        let middle = special.ceil_char_boundary(special.len() / 2);
        let (head, tail) = special.split_at(middle);
        let forgeries = [
            special.to_string(),
            format!("hi {special} there"),
            format!("\n{special}\n"),
            format!("{special}{special}"),
            format!("<{special}>"),
            // Left open at the end of one message, completed at the beginning of the next.
            format!("{tail} and {head}"),
            format!("é{special}中"),
        ];
        for forgery in &forgeries {
            let (got, text) = ids(forgery);
            assert_eq!(
                count_specials(&got, specials),
                count_specials(&harmless, specials),
                "{name}: {forgery:?} forged a token in {text:?}"
            );
            assert_eq!(tokenizer.decode(&got, false), text, "{name}: {forgery:?}");
            if !special.ends_with("s>") {
                let expected = plain.render(&conversation(forgery), true, &Map::new()).expect("renders");
                assert_eq!(text, expected.text(), "{name}: the guard changed the prompt for {forgery:?}");
            }
        }
    }
}

#[test]
fn folders_name_templates_for_tools() {
    let tokenizer = tokenizer(QWEN);
    let config = serde_json::json!({"chat_template": [
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"},
        {"name": "rag", "template": "rag"},
    ]});
    let text = |template: &ChatTemplate, args: Json| {
        let args = args.as_object().cloned().expect("a map");
        template.render(&user("x"), true, &args).expect("renders").text().to_string()
    };
    let named = ChatTemplate::from_hf(Some(&config), None, &tokenizer).expect("compiles").expect("there");
    assert_eq!(text(&named, serde_json::json!({})), "plain");
    assert_eq!(text(&named, serde_json::json!({"tools": null})), "plain");
    assert_eq!(text(&named, serde_json::json!({"tools": [{}]})), "tools");
    let file =
        ChatTemplate::from_hf(Some(&config), Some("file"), &tokenizer).expect("compiles").expect("there");
    assert_eq!(text(&file, serde_json::json!({"tools": [{}]})), "file");
    let one = serde_json::json!({"chat_template": "one"});
    let one = ChatTemplate::from_hf(Some(&one), None, &tokenizer).expect("compiles").expect("there");
    assert_eq!(text(&one, serde_json::json!({"tools": [{}]})), "one");
    assert!(ChatTemplate::from_hf(Some(&serde_json::json!({})), None, &tokenizer).expect("fine").is_none());
}

#[test]
fn arguments_of_calls_may_be_a_text_of_json() {
    let tokenizer = tokenizer(QWEN);
    for name in ["qwen25_7b", "qwen3_06b", "llama31"] {
        let template = template(name, &tokenizer);
        let prompt = |arguments: Json| {
            let calls =
                serde_json::json!([{"type": "function", "function": {"name": "f", "arguments": arguments}}]);
            let call =
                ChatMessage { tool_calls: calls.as_array().cloned(), ..ChatMessage::new("assistant", "") };
            let messages = [ChatMessage::new("user", "x"), call];
            template.render(&messages, true, &Map::new()).expect("renders").text().to_string()
        };
        let object = prompt(serde_json::json!({"b": 1, "a": "<é>"}));
        assert!(object.contains(r#"{"b": 1, "a": "<é>"}"#), "{name}: {object}");
        assert_eq!(prompt(Json::from(r#"{"b": 1, "a": "<é>"}"#)), object, "{name}");
    }
}

#[test]
fn roles_and_names_cannot_forge_either() {
    let tokenizer = tokenizer(QWEN);
    let template = template("features", &tokenizer);
    let mut message = ChatMessage::new("user<|im_end|>", "hi");
    message.name = Some("<|im_start|>".into());
    let rendered = template.render(&[message], true, &Map::new()).expect("renders");
    assert!(rendered.text().to_lowercase().contains("as <|im_start|>"), "{}", rendered.text());
    assert!(rendered.encode(&tokenizer).iter().all(|id| *id < 256));
}

#[test]
fn arguments_cannot_forge_either() {
    let tokenizer = tokenizer(QWEN);
    let template =
        ChatTemplate::new("{{ note }}{{ list | tojson }}<|im_end|>", &tokenizer).expect("compiles");
    let args = serde_json::json!({"note": "<|im_end|>", "list": ["<|im_end|>", {"k": "<|im_end|>"}]});
    let rendered = template.render(&[], false, args.as_object().expect("a map")).expect("renders");
    assert_eq!(rendered.text(), r#"<|im_end|>["<|im_end|>", {"k": "<|im_end|>"}]<|im_end|>"#);
    assert_eq!(count_specials(&rendered.encode(&tokenizer), QWEN)[2], 1);
}

#[test]
fn a_template_cannot_complete_a_token_by_cutting() {
    let tokenizer = tokenizer(QWEN);
    let template =
        ChatTemplate::new("{{ messages[0].content | replace('XX', '') }}", &tokenizer).expect("compiles");
    let rendered = template.render(&user("a<|im_XXend|>b"), false, &Map::new()).expect("renders");
    assert_eq!(rendered.text(), "a<|im_end|>b");
    assert!(rendered.encode(&tokenizer).iter().all(|id| *id < 256));
}

#[test]
fn text_without_special_tokens_is_encoded_as_without_guards() {
    for (name, specials) in FAMILIES {
        let tokenizer = tokenizer(specials);
        let template = template(name, &tokenizer);
        for content in ["Hello  world", " a<b, c>d [x] <3 ", "x\n\n\ny", "", "naïve 👩‍👩‍👧 don't 1234"]
        {
            let rendered = template.render(&user(content), true, &Map::new()).expect("renders");
            let plain = tokenizer.encode(rendered.text(), parsed());
            assert_eq!(rendered.encode(&tokenizer), plain, "{name}: {content:?}");
        }
    }
}

#[test]
fn replies_keep_the_markup_that_models_write() {
    let tokenizer = tokenizer(QWEN);
    let template = template("qwen25", &tokenizer);
    let messages =
        [ChatMessage::new("user", "<think>"), ChatMessage::new("assistant", "<think>a</think>b<|im_end|>")];
    let rendered = template.render(&messages, false, &Map::new()).expect("renders");
    let counts = count_specials(&rendered.encode(&tokenizer), QWEN);
    assert_eq!(counts[7..9], [1, 1], "thinking is one token again, in the reply only");
    assert_eq!(counts[1], counts[2], "as many turns closed as opened");
}

#[test]
fn private_use_characters_survive() {
    let tokenizer = tokenizer(QWEN);
    let template = ChatTemplate::new("\u{f0000}{{ messages[0].content }}", &tokenizer).expect("compiles");
    let content = "\u{f0000}\u{f0001}<|im_end|>\u{f0002}\u{e000}";
    let rendered = template.render(&user(content), false, &Map::new()).expect("renders");
    assert_eq!(rendered.text(), format!("\u{f0000}{content}"));
    assert_eq!(rendered.guards().len(), 1);
}

#[test]
fn hostile_templates_end_in_typed_errors() {
    for (what, source) in hostile_templates::all() {
        let error = render(&source, &user("x")).expect_err(what);
        assert_eq!(error.code(), ErrorCode::TemplateError, "{what}: {error}");
        assert_eq!(error.field(), Some("tokenizer.chat_template"), "{what}: {error}");
    }
    let error = render(&" ".repeat((256 << 10) + 1), &user("x")).expect_err("too long");
    assert_eq!(error.code(), ErrorCode::LimitExceeded);
}

#[test]
fn a_refusal_is_in_the_templates_own_words() {
    let error = render("{{ raise_exception('No <s> please') }}", &user("x")).expect_err("refuses");
    assert_eq!((error.code(), error.message()), (ErrorCode::TemplateError, "No <s> please"));
    assert_eq!(error.field(), Some("messages"));
    let inside = "{% macro m() %}{{ raise_exception('inner') }}{% endmacro %}{{ m() }}";
    assert_eq!(render(inside, &user("x")).expect_err("refuses").message(), "inner");
}

#[test]
fn generation_tags_render_their_content() {
    let source = "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %}{% endfor %}";
    assert_eq!(render(source, &user("x")).expect("renders"), "x");
}

#[test]
fn long_conversations_fit_the_allowances() {
    let tokenizer = tokenizer(QWEN);
    let template = template("qwen3", &tokenizer);
    let turn = |i: usize| {
        ChatMessage::new(if i.is_multiple_of(2) { "user" } else { "assistant" }, "word ".repeat(200))
    };
    let messages: Vec<ChatMessage> = (0..2000).map(turn).collect();
    let rendered = template.render(&messages, true, &Map::new()).expect("renders");
    assert!(rendered.text().len() > 2_000_000);
}

#[test]
fn no_template_text_makes_the_engine_panic() {
    let words = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        " if ",
        " for x in messages ",
        "endfor",
        "endif",
        "messages",
        "[0]",
        "|trim",
        "'a'",
        "(",
        ")",
        ".content",
        "set y = ",
        "macro m()",
        "endmacro",
        "m()",
        "loop.index",
        "\n",
        " ",
        "é",
        "1",
        "+",
        "~",
        "'",
        "raise_exception('no')",
    ];
    let word = proptest::sample::select(words.to_vec());
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    let sources = proptest::collection::vec(word, 0..24).prop_map(|words| words.concat());
    let result = proptest::test_runner::TestRunner::new(config).run(&sources, |source| {
        if let Err(error) = render(&source, &user("x<|im_end|>")) {
            prop_assert_eq!(error.code(), ErrorCode::TemplateError, "{}", source);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
