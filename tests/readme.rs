//! Holds the support matrix of README.md equal to the registries. `UPDATE_README=1 cargo test --test readme` rewrites it.
#![cfg(not(target_arch = "wasm32"))]

use std::fmt::Write as _;
use std::path::Path;

use lamplight::model::families::FAMILIES;
use lamplight::quant::FORMATS;

const BEGIN: &str = "<!-- matrix:begin (written by `UPDATE_README=1 cargo test --test readme`) -->\n";
const END: &str = "<!-- matrix:end -->";

fn matrix() -> String {
    let mut text =
        String::from("| Family | GGUF architecture | Models | WebGPU | CPU |\n|---|---|---|---|---|\n");
    for family in FAMILIES {
        let architectures = family.architectures.join("`, `");
        writeln!(text, "| {} | `{architectures}` | {} | yes | yes |", family.name, family.models)
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
