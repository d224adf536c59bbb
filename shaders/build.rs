//! Copies the WGSL files without comments and needless spaces, so that no page downloads them: a build script of Cargo.
//!
//! Lines stay where they are, so that a compiler's message names the line of the file under shaders/.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=shaders");
    let out =
        env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set: run this by cargo"))?;
    strip(Path::new("shaders"), &Path::new(&out).join("shaders"))
}

fn strip(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let copy = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            strip(&path, &copy)?;
        } else if path.extension().is_some_and(|extension| extension == "wgsl") {
            fs::write(copy, without_comments(&fs::read_to_string(&path)?))?;
        }
    }
    Ok(())
}

/// WGSL has no strings, so `//` always begins a comment; the files have no block comments (tests/shaders.rs holds that).
fn without_comments(text: &str) -> String {
    text.lines().map(|line| closed_up(line.split("//").next().unwrap_or_default().trim()) + "\n").collect()
}

/// A line without the spaces that part neither two words nor two operators.
fn closed_up(line: &str) -> String {
    if line.starts_with('#') {
        return line.to_owned();
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_operator = |c: char| "+-*/%&|^<>=!~".contains(c);
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ' '
            && let (Some(before), Some(&after)) = (out.chars().last(), chars.peek())
            && !(is_word(before) && is_word(after) || is_operator(before) && is_operator(after))
        {
            continue;
        }
        out.push(c);
    }
    out
}
