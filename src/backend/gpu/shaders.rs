//! WGSL text: the table of files and the preprocessor that puts a kernel together.
//!
//! Principal function: [`expand`]. The dialect is described in shaders/README.md: `#import`, `#if / #else / #endif` on
//! defines, and every define as a `const`. The text of a variant is the same in every run, since browsers key their
//! caches of compiled shaders by it. Must not know wgpu.

use crate::error::{Error, ErrorCode, Result};
use crate::quant::Format;

/// A value that decides `#if` and is a `const NAME: u32` in the text.
pub type Define = (&'static str, u32);

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// All WGSL files but the formats' fragments, by their name under shaders/ without the extension.
        pub const FILES: &[(&str, &str)] = &[$(($name, wgsl!($name))),*];
    };
}

files!(
    "attention/attention",
    "attention/attention_merge",
    "attention/attention_rows",
    "attention/io",
    "attention/load_kv",
    "attention/norm_rope_kv_write",
    "attention/rope",
    "attention/rope_kv_write",
    "attention/runs",
    "attention/store_block",
    "attention/store_head",
    "elementwise/columns",
    "elementwise/permute",
    "elementwise/elementwise",
    "elementwise/gated_activation",
    "elementwise/take_outputs",
    "embed/embed",
    "lib/activations",
    "lib/bytes",
    "lib/byte_floats",
    "lib/codes_by_element",
    "lib/eight_lanes",
    "lib/grids",
    "lib/k_scales",
    "lib/kv",
    "lib/lookup",
    "lib/step",
    "lib/subgroup_lanes",
    "lib/subgroups",
    "lib/weights",
    "matmul/expert_io",
    "matmul/expert_mat_vec",
    "matmul/float_tiles",
    "matmul/gated_product",
    "matmul/io",
    "matmul/load_x",
    "matmul/mat_mul",
    "matmul/mat_mul_rows",
    "matmul/mat_vec",
    "matmul/norm",
    "matmul/packed_tiles",
    "matmul/products",
    "matmul/row_sums",
    "matmul/tiles",
    "moe/expert_sum",
    "moe/fused_gated_activation",
    "moe/group_pairs",
    "moe/route",
    "norm/norm",
    "recurrent/gated_delta",
    "recurrent/short_conv",
    "recurrent/token_shift",
    "recurrent/wkv4",
    "recurrent/wkv6",
    "recurrent/wkv7",
    "recurrent/wkv7_bonus",
    "recurrent/wkv7_keys",
    "repack/repack",
    "sample/advance",
    "sample/arg_max",
    "sample/bucket",
    "sample/choose",
    "sample/collect",
    "sample/descending",
    "sample/draw",
    "sample/largest",
    "sample/largest_of_run",
    "sample/largest_of_runs",
    "sample/penalise",
    "sample/sampling",
    "sample/sum_of_lanes",
    "sample/tally",
    "sample/top",
    "sample/top_of_run",
    "streams/row_statistics",
    "streams/stream_mix",
);

/// The import that stands for the weight format's fragment.
const FORMAT_IMPORT: &str = "format";

/// Half floats in kernels: adds `enable f16;` to the text.
pub const F16: &str = "F16";

/// Subgroup operations in kernels: adds `enable subgroups;` to the text, which browsers want to see and wgpu's own
/// compiler does not know.
pub const SUBGROUPS: &str = "SUBGROUPS";

/// The text of kernel file `entry` for `format` and `defines`.
/// # Errors
/// `Internal` for an unknown import, an unknown directive or an unbalanced `#if`: a mistake in a WGSL file, which the
/// tests of all variants would have found.
pub fn expand(entry: &str, format: Option<&Format>, defines: &[Define]) -> Result<String> {
    let mut expansion = Expansion { format, defines, imported: Vec::new(), text: String::new() };
    if expansion.is_set(F16) {
        expansion.text.push_str("enable f16;\n");
    }
    if expansion.is_set(SUBGROUPS) && cfg!(target_arch = "wasm32") {
        expansion.text.push_str("enable subgroups;\n");
    }
    for (name, value) in defines {
        expansion.text.push_str(&format!("const {name}: u32 = {value}u;\n"));
    }
    expansion.import(entry, entry)?;
    Ok(expansion.text)
}

struct Expansion<'a> {
    format: Option<&'a Format>,
    defines: &'a [Define],
    imported: Vec<String>,
    text: String,
}

impl Expansion<'_> {
    /// A name without a define counts as 0, as in C.
    fn is_set(&self, name: &str) -> bool {
        self.defines.iter().any(|(defined, value)| *defined == name && *value != 0)
    }

    fn source(&self, name: &str, from: &str) -> Result<&'static str> {
        if name == FORMAT_IMPORT {
            return match self.format {
                Some(format) => Ok(format.wgsl),
                None => Err(broken(from, "imports a weight format, and none was given")),
            };
        }
        let found = FILES.iter().find(|(file, _)| *file == name);
        found
            .map(|(_, text)| *text)
            .ok_or_else(|| broken(from, &format!("imports {name:?}, which does not exist")))
    }

    /// Appends file `name`, which `from` asks for; a file comes once, at its first import.
    fn import(&mut self, name: &str, from: &str) -> Result<()> {
        if self.imported.iter().any(|seen| seen == name) {
            return Ok(());
        }
        self.imported.push(name.to_owned());
        let source = self.source(name, from)?;
        // For every open #if: whether its taken branch is the current one, and whether the whole is in live text.
        let mut open: Vec<(bool, bool)> = Vec::new();
        for line in source.lines() {
            let live = open.last().is_none_or(|(taken, outer)| *taken && *outer);
            let mut words = line.split_whitespace();
            match words.next() {
                Some("#if") => {
                    let condition = words.next().ok_or_else(|| broken(name, "has #if without a name"))?;
                    open.push((self.is_set(condition), live));
                }
                Some("#else") => match open.last_mut() {
                    Some((taken, _)) => *taken = !*taken,
                    None => return Err(broken(name, "has #else without #if")),
                },
                Some("#endif") => {
                    open.pop().ok_or_else(|| broken(name, "has #endif without #if"))?;
                }
                Some("#import") if live => {
                    let wanted = words.next().ok_or_else(|| broken(name, "has #import without a name"))?;
                    self.import(wanted, name)?;
                }
                Some(word) if word.starts_with('#') && word != "#import" => {
                    return Err(broken(name, &format!("has the unknown directive {word:?}")));
                }
                _ if live => {
                    self.text.push_str(line);
                    self.text.push('\n');
                }
                _ => {}
            }
        }
        match open.is_empty() {
            true => Ok(()),
            false => Err(broken(name, "has #if without #endif")),
        }
    }
}

fn broken(file: &str, what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("shader {file} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_follow_the_defines_and_defines_become_constants() {
        let half = expand("attention/attention", None, &[(F16, 1), ("HEAD_DIM", 64)]).unwrap();
        assert!(half.starts_with("enable f16;\nconst F16: u32 = 1u;\nconst HEAD_DIM: u32 = 64u;\n"));
        assert!(half.contains("alias kv_t=f16;") && !half.contains("alias kv_t=f32;"));
        let full = expand("attention/attention", None, &[(F16, 0), ("HEAD_DIM", 64)]).unwrap();
        assert!(!full.contains("enable f16") && full.contains("alias kv_t=f32;"));
        assert!(!full.contains('#'), "a directive is left in the text");
    }

    #[test]
    fn a_file_is_imported_once() {
        let format = crate::quant::format(crate::tensor::DType::Q4_K);
        let text = expand("matmul/mat_vec", Some(format), &[("WHOLE_CHUNKS", 1)]).unwrap();
        assert_eq!(text.matches("struct Step").count(), 1);
        assert_eq!(text.matches("fn k_scale(").count(), 1);
    }

    #[test]
    fn a_missing_format_is_told() {
        let error = expand("matmul/mat_vec", None, &[]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(error.message().contains("matmul/io"), "{error}");
    }
}
