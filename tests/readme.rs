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

/// The family's sets, as shares of what their references allow: the worst one's, and how many there are.
fn share(family: &Family, results: &Map<String, Value>) -> (usize, f64) {
    let sets = results.values().filter(|result| {
        let architecture = result["architecture"].as_str().expect("an architecture");
        family.architectures.contains(&architecture)
    });
    sets.fold((0, 0.0), |(n, worst), result| {
        let number = |key: &str| result[key].as_f64().expect("a number");
        (n + 1, f64::max(worst, number("worst") / number("allowed")))
    })
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
        let shares: Vec<_> = results.iter().map(|results| share(family, results)).collect();
        let (n_sets, _) = shares[0];
        let cells: Vec<_> = match n_sets {
            0 => vec!["–".to_owned(); columns.len()],
            _ => shares.iter().map(|(_, worst)| format!("{:.1} %", worst * 100.0)).collect(),
        };
        let (name, models, cells) = (family.name, family.models, cells.join(" | "));
        writeln!(text, "| {name} | `{architectures}` | {models} | {n_sets} | {cells} |")
            .expect("writing to a String");
    }
    text.push_str("\n| Weight format | Bits per weight | WebGPU | CPU |\n|---|---|---|---|\n");
    for format in FORMATS {
        let bits = format.block_bytes as f64 * 8.0 / format.block_len as f64;
        writeln!(text, "| {} | {bits} | yes | yes |", format.name).expect("writing to a String");
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
