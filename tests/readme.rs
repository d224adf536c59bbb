//! Holds the support matrix of README.md equal to the registries and to the kept results of the golden tests.
//! `UPDATE_README=1 cargo test --test readme` rewrites it; `UPDATE_GOLDEN=1 cargo test --test golden` the results.
#![cfg(not(target_arch = "wasm32"))]

use std::fmt::Write as _;
use std::path::Path;

use lamplight::model::families::{FAMILIES, Family};
use lamplight::quant::FORMATS;
use serde_json::{Map, Value};

const BEGIN: &str = "<!-- matrix:begin (written by `UPDATE_README=1 cargo test --test readme`) -->\n";
const END: &str = "<!-- matrix:end -->";

/// Results kept, and what their columns are called.
const WAYS: &[(&str, &str)] =
    &[("webgpu-f32", "WebGPU f32"), ("webgpu-f16", "WebGPU f16"), ("cpu", "CPU"), ("cpu-exact", "CPU exact")];

/// What one way of computing reached, by set.
fn results(way: &str) -> Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/results/{way}.json"));
    let text =
        std::fs::read_to_string(path).expect("kept results: run UPDATE_GOLDEN=1 cargo test --test golden");
    serde_json::from_str(&text).expect("results are JSON")
}

/// The family's sets: how many there are, and the worst one's gap as a share of what its reference allows; where
/// rounding sends a token to another expert now and then, the share of positions within what it allows.
fn cell(family: &Family, results: &Map<String, Value>) -> (usize, String) {
    let (mut n_sets, mut worst, mut within) = (0, 0f64, 1f64);
    for result in results.values() {
        let number = |key: &str| result[key].as_f64().expect("a number");
        let architecture = result["architecture"].as_str().expect("an architecture");
        if !family.architectures.contains(&architecture) {
            continue;
        }
        n_sets += 1;
        match number("worst") <= number("allowed") {
            true => worst = worst.max(number("worst") / number("allowed")),
            false => within = within.min(number("within")),
        }
    }
    let text = match (n_sets, within) {
        (0, _) => "–".to_owned(),
        (_, 1.0) => format!("{:.1} %", worst * 100.0),
        _ => format!("in {:.0} % of positions", within * 100.0),
    };
    (n_sets, text)
}

fn matrix() -> String {
    let results: Vec<_> = WAYS.iter().map(|(way, _)| results(way)).collect();
    let columns: Vec<_> = WAYS.iter().map(|(_, column)| *column).collect();
    let mut text = String::new();
    let head = columns.join(" | ");
    writeln!(text, "| Family | GGUF architecture | Models | Sets | {head} |").expect("writing to a String");
    writeln!(text, "|---|---|---|---|{}", "---|".repeat(columns.len())).expect("writing to a String");
    for family in FAMILIES {
        let architectures = family.architectures.join("`, `");
        let cells: Vec<_> = results.iter().map(|results| cell(family, results)).collect();
        let n_sets = cells[0].0;
        let cells: Vec<_> = cells.into_iter().map(|(_, text)| text).collect();
        let (name, models, cells) = (family.name, family.models, cells.join(" | "));
        writeln!(text, "| {name} | `{architectures}` | {models} | {n_sets} | {cells} |")
            .expect("writing to a String");
    }
    text.push_str("\n| Weight format | Bits per weight | WebGPU | CPU |\n|---|---|---|---|\n");
    for format in FORMATS {
        let bits = format.block_bytes as f64 * 8.0 / format.block_len as f64;
        let name = match format.name {
            "a4" => "AWQ, GPTQ of 2 to 4 bits (in memory: a4)",
            "a8" => "GPTQ of 8 bits (in memory: a8)",
            name => name,
        };
        writeln!(text, "| {name} | {bits} | yes | yes |").expect("writing to a String");
    }
    text
}

#[test]
fn support_matrix_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("README.md");
    let start = readme.find(BEGIN).expect("the begin mark") + BEGIN.len();
    let end = readme.find(END).expect("the end mark");
    if std::env::var_os("UPDATE_README").is_some() {
        let text = format!("{}{}{}", &readme[..start], matrix(), &readme[end..]);
        std::fs::write(&path, text).expect("README.md is writable");
        return;
    }
    assert_eq!(&readme[start..end], matrix(), "run UPDATE_README=1 cargo test --test readme");
}
