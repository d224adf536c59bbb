//! The golden sets under tests/golden (its README.md): where they are and what each says of itself. Principal type: [`Set`].
//! Knows files, no engine. `LAMPLIGHT_GOLDEN` leaves out the sets whose names do not contain it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// One model and what independent implementations compute for it.
pub struct Set {
    /// Below [`dir`], with `/`.
    pub name: String,
    pub golden: Golden,
}

impl Set {
    pub fn dir(&self) -> PathBuf {
        dir().join(&self.name)
    }

    /// Its GGUF file or folder.
    pub fn model(&self) -> PathBuf {
        self.dir().join(&self.golden.file)
    }
}

/// A `golden.json`.
#[derive(Deserialize)]
pub struct Golden {
    pub file: String,
    pub reference: String,
    pub prompts: Vec<Prompt>,
    /// Whether tokens see only earlier ones, so that prompts can be cut into steps.
    #[serde(default = "yes")]
    pub causal: bool,
    /// Of embedding models, the texts of the prompts.
    #[serde(default)]
    pub texts: Vec<String>,
    pub tolerance_f32: f32,
    pub tolerance_f16: f32,
    pub top1_min_f16: f32,
    /// Least share of positions within the tolerance of half floats: of mixtures of experts, where rounding may send a
    /// token elsewhere, less than all.
    #[serde(default = "all")]
    pub share_min_f16: f32,
}

fn all() -> f32 {
    1.0
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
pub struct Prompt {
    pub index: usize,
    pub has_logits: bool,
}

pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// All sets that have a model's file (those without are other tests'), by name.
pub fn sets() -> Vec<Set> {
    let only = std::env::var("LAMPLIGHT_GOLDEN").ok();
    let mut sets = Vec::new();
    for (parent, prefix) in [(dir(), ""), (dir().join("hf"), "hf/")] {
        for entry in fs::read_dir(parent).unwrap() {
            let dir = entry.unwrap().path();
            let Ok(text) = fs::read_to_string(dir.join("golden.json")) else { continue };
            let name = format!("{prefix}{}", dir.file_name().unwrap().to_string_lossy());
            let left_out = only.as_ref().is_some_and(|only| !name.contains(only));
            let golden: Value = serde_json::from_str(&text).unwrap();
            if !left_out && golden.get("file").is_some() {
                sets.push(Set { name, golden: serde_json::from_value(golden).unwrap() });
            }
        }
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(sets.len() > if only.is_some() { 0 } else { 60 }, "only {} golden sets were found", sets.len());
    sets
}

/// All sets with LAMPLIGHT_LONG, else about `n` of them; see [`sample`].
pub fn sampled(n: usize) -> Vec<Set> {
    sample(sets(), n)
}

/// All of `items` with LAMPLIGHT_LONG, else about `n` of them, by a seed that is told: `LAMPLIGHT_SEED`, or the time.
#[allow(clippy::print_stdout, reason = "a sample must be told")]
pub fn sample<T>(items: Vec<T>, n: usize) -> Vec<T> {
    if std::env::var_os("LAMPLIGHT_LONG").is_some() {
        return items;
    }
    let given = std::env::var("LAMPLIGHT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |time| time.as_secs() % 1000)
    });
    println!("sampled by LAMPLIGHT_SEED={seed}");
    let step = items.len().div_ceil(n);
    items.into_iter().skip(seed as usize % step).step_by(step).collect()
}
