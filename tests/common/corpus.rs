//! A mixed corpus for tokenizers: scripts, code, white space, numbers, emoji, controls, special tokens.
#![allow(dead_code, reason = "each test binary uses a part")]

use proptest::prelude::*;

pub(crate) const CORPUS: &[&str] = &[
    "The quick brown fox jumps over the lazy dog; it's what foxes do, isn't it? They'll've DON'T.",
    "Once upon a time there was a language model that lived in a web page and told stories to children.",
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧！價錢：１２３元。こんにちは世界、한국어도 있습니다.",
    "fn main() {\n    let x: Vec<u8> = (0..10).map(|i| i * 2).collect();\n\teprintln!(\"{x:?}\");\r\n}\n\n\n// end\n",
    "def f(x):\n    return x*2 if x > 0 else -x  # TODO\n\nclass A:\n        pass\n",
    "👩‍👩‍👧 🇨🇭🦀 ❤️‍🔥 1️⃣ 👋🏽 text👍text",
    "  leading and trailing   \n \t mixed\t\twhite \u{a0}\u{2003}space \u{3000}\r\n\r\n  ",
    "3.14159 2024-12-31 1234567 ٣٤٥ Ⅷ ½ 10^-3 0xFF 1e9 v2.0.1",
    "\0\u{1}\u{7f}\u{85}\u{ad}\u{200b}\u{feff}\u{fffd}",
    "e\u{301} Å\u{212b} ﬁ ạ̈ नमस्ते ภาษาไทย שלום مرحبا Ὀδυσσεύς",
    "http://example.org/a?b=c&d=%20#x user@example.com C:\\path\\file.txt ~/.bashrc $HOME",
    "!!!???...---### <<>> [[x]] {{y}} `code` **bold** __init__ ===== ~~~~~",
    "a<|im_start|>user\nhi<|im_end|>b<|endoftext|><repo_name><|im_start|><|im_sta <|im_end|",
    "",
    " ",
    "\n",
];

/// Texts of the corpus, its halves, and all of it in one.
pub(crate) fn texts() -> Vec<String> {
    let mut texts: Vec<String> = CORPUS.iter().map(|text| text.to_string()).collect();
    texts.extend(CORPUS.iter().map(|text| text.chars().skip(text.chars().count() / 2).collect()));
    texts.push(CORPUS.concat());
    texts.push(CORPUS.join("\n\n"));
    texts
}

/// Texts made of parts of the corpus.
pub(crate) fn mixtures() -> impl Strategy<Value = String> {
    let pieces = proptest::sample::select(CORPUS.to_vec());
    proptest::collection::vec((pieces, 0usize..60, 0usize..20), 1..8).prop_map(|parts| {
        let part = |(text, skip, take): &(&str, usize, usize)| {
            text.chars().skip(*skip).take(*take).collect::<String>()
        };
        parts.iter().map(part).collect::<String>()
    })
}

/// The bytes of a base64 text, as a metadata value has them.
pub(crate) fn base64(text: &str) -> Vec<u64> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let values = text.trim_end_matches('=').chars().map(|c| alphabet.find(c).expect("base64") as u64);
    let values: Vec<u64> = values.collect();
    let mut bytes = Vec::new();
    for group in values.chunks(4) {
        let bits = group.iter().fold(0, |bits, value| bits << 6 | value) << (6 * (4 - group.len()));
        bytes.extend((0..group.len() - 1).map(|i| bits >> (16 - 8 * i) & 0xff));
    }
    bytes
}
