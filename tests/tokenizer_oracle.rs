//! Our tokenizer against the reference cases of `../shared/oracle`, where that folder is there.

#[path = "common/tokenizer_json.rs"]
mod tokenizer_json;

use lamplight::text::{EncodeOptions, Tokenizer};
use serde_json::Value as Json;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn read(path: &std::path::Path) -> Option<Json> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[test]
fn encodes_and_decodes_as_the_reference_cases() {
    let families = [
        "smollm2",
        "llama31",
        "llama32",
        "qwen25",
        "qwen3",
        "smollm3",
        "stablelm2_1b6",
        "stablelm_3b",
        "mistral_v01",
        "mobilellama",
        "llama_variants",
    ];
    let mut failures = 0;
    for family in families {
        let folder = std::path::Path::new("../shared/oracle").join(family);
        let (Some(json), Some(cases)) =
            (read(&folder.join("tokenizer.json")), read(&folder.join("tokenizer_cases.json")))
        else {
            println!("skipped: {family} is not there");
            continue;
        };
        let tokenizer = Tokenizer::from_metadata(&tokenizer_json::to_metadata(&json)).expect(family);
        for case in cases["encode"].as_array().expect("cases") {
            let text = case["text"].as_str().expect("text");
            let full = tokenizer.encode(text, FULL);
            let plain = tokenizer.encode(text, PLAIN);
            for (what, got, want) in
                [("full", &full, ids(&case["ids"])), ("plain", &plain, ids(&case["ids_no_special"]))]
            {
                if *got != want {
                    failures += 1;
                    println!("{family} {what} {text:?}\n got {got:?}\nwant {want:?}");
                }
            }
            let decoded = tokenizer.decode(&ids(&case["ids"]), false);
            if decoded != case["decoded"].as_str().expect("text") {
                failures += 1;
                println!("{family} decode {text:?}\n got {decoded:?}\nwant {}", case["decoded"]);
            }
            let decoded = tokenizer.decode(&ids(&case["ids"]), true);
            if decoded != case["decoded_skip_special"].as_str().expect("text") {
                failures += 1;
                println!(
                    "{family} decode_skip {text:?}\n got {decoded:?}\nwant {}",
                    case["decoded_skip_special"]
                );
            }
        }
    }
    assert_eq!(failures, 0);
}
