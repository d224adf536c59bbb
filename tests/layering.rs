//! The rules of the source tree, held: which module may use which, who may name the browser and the GPU, how large a
//! file may grow, and that every module says what it is.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The arrow: a module may use itself and those on lower floors, and none on its own floor or above.
const FLOORS: &[&[&str]] = &[
    &["error", "tensor"],
    &["formats"],
    &["quant"],
    &["weights", "text"],
    &["model"],
    &["backend"],
    &["generate"],
    &["engine"],
    &["web"],
    &["lib", "bin"],
];
/// `text` is a leaf: only these use it.
const USERS_OF_TEXT: &[&str] = &["text", "engine", "web", "bin", "lib"];
/// A file this long has more than one subject (the target is 600).
const MAX_LINES: usize = 700;
/// Crates that belong to one place, by the paths that may name them.
const GUARDED_CRATES: &[(&str, &[&str])] = &[
    ("wgpu", &["backend/gpu"]),
    ("wasm_bindgen", &["web", "backend/gpu", "lib.rs"]),
    ("wasm_bindgen_futures", &["web", "backend/gpu"]),
    ("js_sys", &["web", "backend/gpu"]),
    ("web_sys", &["web", "backend/gpu"]),
    ("gloo_worker", &["web"]),
    ("idb", &["web"]),
    ("serde_wasm_bindgen", &["web"]),
    ("minijinja", &["text"]),
    ("clap", &["bin"]),
    ("pollster", &["bin"]),
];

/// A source file without its comments, strings and tests.
struct Source {
    /// Relative to `src`, with `/` between the parts.
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.extension().is_some_and(|ext| ext == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 20, "the source tree was not found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let code = match path.ends_with("/tests.rs") {
            true => String::new(),
            false => without_tests(&without_comments_and_strings(&text)),
        };
        Source { path, text, code }
    };
    paths.into_iter().map(read).collect()
}

/// Replaces comments and the insides of strings by nothing; newlines stay.
fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string_hashes(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest.find("\"'").unwrap() + 2
        } else if rest.starts_with('"') {
            string_len(rest)
        } else {
            let character = rest.chars().next().unwrap();
            code.push(character);
            at += character.len_utf8();
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        at += skipped;
    }
    code
}

fn raw_string_hashes(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Cuts `#[cfg(test)] mod tests { … }` off: tests may use what they like.
fn without_tests(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let is_test_cfg = |line: &str| line.starts_with("#[cfg(") && line.contains("test");
    let starts =
        |at: &usize| is_test_cfg(lines[*at]) && lines.get(at + 1).is_some_and(|next| next.ends_with('{'));
    let end = (0..lines.len()).find(starts).unwrap_or(lines.len());
    lines[..end].join("\n")
}

/// The names that follow `prefix` in `code`, one level deep: `crate::a::b` and `crate::{a, b::c}`.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.push(identifier(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '}' if depth == 0 => break,
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && depth == 0 && !c.is_whitespace() => {
                            names.push(identifier(&group[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn modules_use_only_lower_floors() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        let own = floor(module).unwrap_or_else(|| panic!("src/{} is on no floor", source.path));
        let prefix = if module == "bin" { "lamplight::" } else { "crate::" };
        for used in names_after(&source.code, prefix) {
            // Macros are exported at the root.
            let Some(other) = floor(&used) else { continue };
            let text_rule = used == "text" && !USERS_OF_TEXT.contains(&module);
            if used != module && (other >= own || text_rule) {
                wrong.push(format!("src/{} uses {used}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the arrow:\n{}", wrong.join("\n"));
}

#[test]
fn guarded_crates_stay_in_their_places() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, places) in GUARDED_CRATES {
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            let named = !names_after(&source.code, &format!("{name}::")).is_empty();
            if named && !allowed {
                wrong.push(format!("src/{} names {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn backends_name_no_family() {
    let families: Vec<String> = sources()
        .iter()
        .filter_map(|source| source.path.strip_prefix("model/families/"))
        .map(|file| file.trim_end_matches(".rs").to_owned())
        .filter(|name| name != "mod" && !name.starts_with("common/"))
        .collect();
    assert!(!families.is_empty());
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("backend/")) {
        for name in families.iter().chain([&"families".to_owned()]) {
            if source.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name) {
                wrong.push(format!("src/{} names {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for source in sources() {
        let n_lines = source.text.lines().count();
        // Tables are generated and have one subject however long they are.
        if n_lines > MAX_LINES && !source.path.ends_with("_tables.rs") {
            wrong.push(format!("src/{} has {n_lines} lines, more than {MAX_LINES}", source.path));
        }
        if !source.text.starts_with("//!") {
            wrong.push(format!("src/{} does not open with //!", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_only_in_the_simd_kernels() {
    let is_unsafe = |source: &Source| {
        source.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe")
    };
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|source| is_unsafe(source) && !source.path.starts_with("backend/cpu/simd"))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The scanner itself: a rule that sees nothing would pass for ever.
#[test]
fn the_scanner_finds_what_it_looks_for() {
    let code = "use crate::{a, b::{c, d}, e};\nlet x = crate::f::g(\"crate::no\"); // crate::no\nmycrate::no;\n\
                let quote = '\"'; use crate::h; r#\"crate::no\"#; \"\\\"crate::no\"\n#[cfg(test)]\nmod tests {\n    crate::no\n}";
    let scanned = without_tests(&without_comments_and_strings(code));
    assert_eq!(names_after(&scanned, "crate::"), ["a", "b", "e", "f", "h"]);
    assert!(without_tests("#[cfg(test)]\nmod helper;\nuse x;").contains("use x"));
}
