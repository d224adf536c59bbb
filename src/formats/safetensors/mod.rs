//! safetensors headers, parsed from a growing prefix of the file.
//!
//! Principal function: [`parse`]. Must not know models or decode tensors.
//!
//! The `safetensors` crate counts in `usize`, which on wasm32 ends at 4 GiB; here every offset is `u64`. The rules are
//! the crate's own: tensors cover the data section without holes or overlap, in whatever order the JSON lists them,
//! and the sizes follow from dtype and shape. Beyond them, bytes after the last tensor are allowed and never read, as
//! in a GGUF file.

mod entries;
mod index;

pub use index::{ShardIndex, parse_index};

use super::gguf::looks_like;
use crate::error::{Error, ErrorCode, Result};

/// Largest header accepted: the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors of a file; experts of the largest published models make some ten thousand.
pub const MAX_TENSORS: usize = 1 << 18;
/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 8;
/// Bytes of the number that the file begins with.
const LEN_BYTES: u64 = 8;

/// How the elements of a stored tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the format's own spelling")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Dtype {
    BOOL,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

impl Dtype {
    /// All of them with their names and bytes per element.
    const ALL: [(Dtype, &'static str, u64); 16] = [
        (Dtype::BOOL, "BOOL", 1),
        (Dtype::U8, "U8", 1),
        (Dtype::I8, "I8", 1),
        (Dtype::F8_E5M2, "F8_E5M2", 1),
        (Dtype::F8_E4M3, "F8_E4M3", 1),
        (Dtype::F8_E8M0, "F8_E8M0", 1),
        (Dtype::I16, "I16", 2),
        (Dtype::U16, "U16", 2),
        (Dtype::F16, "F16", 2),
        (Dtype::BF16, "BF16", 2),
        (Dtype::I32, "I32", 4),
        (Dtype::U32, "U32", 4),
        (Dtype::F32, "F32", 4),
        (Dtype::F64, "F64", 8),
        (Dtype::I64, "I64", 8),
        (Dtype::U64, "U64", 8),
    ];

    /// The name in the header.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of an element.
    pub fn n_bytes(self) -> u64 {
        self.row().2
    }

    fn row(self) -> (Dtype, &'static str, u64) {
        *Self::ALL.iter().find(|row| row.0 == self).expect("invariant: every dtype has a row")
    }

    /// The dtype of a name.
    pub fn of_name(name: &str) -> Option<Dtype> {
        Self::ALL.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// As the file has it.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions with the contiguous one last, as the file writes them.
    pub shape: Vec<u64>,
    /// Absolute position of the first byte in the file.
    pub offset: u64,
    /// Size.
    pub n_bytes: u64,
}

/// Everything that stands before the tensor data.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// All tensors in file order; offsets are absolute.
    pub tensors: Vec<TensorInfo>,
    /// `__metadata__`: strings by name.
    pub metadata: Vec<(String, String)>,
    /// Where the last tensor ends.
    pub data_end: u64,
}

/// What a prefix of a file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// At least this many bytes from the start of the file are needed.
    NeedMore(u64),
    /// The header is whole.
    Header(Header),
}

/// Parses the header from the first bytes of a file; `file_len` is the size of the whole file if known.
/// # Errors
/// A typed error that names the tensor at fault: `NotAModel`, `LimitExceeded`, `Truncated`, `Malformed`, `UnsupportedType`.
pub fn parse(prefix: &[u8], file_len: Option<u64>) -> Result<Parsed> {
    let need = |n_bytes: u64| match file_len {
        Some(file_len) if n_bytes > file_len => {
            let message = format!(
                "the header needs {n_bytes} bytes, but the file has only {file_len}: it was cut short"
            );
            Err(Error::new(ErrorCode::Truncated, message).at("header"))
        }
        _ => Ok(Parsed::NeedMore(n_bytes)),
    };
    let Some((len, rest)) = prefix.split_first_chunk::<8>() else {
        if file_len.is_some_and(|file_len| file_len < LEN_BYTES) {
            return Err(not_safetensors(prefix));
        }
        return need(LEN_BYTES);
    };
    let n_json = u64::from_le_bytes(*len);
    // Checked before the length is believed: text read as a number is astronomic.
    if rest.first().is_some_and(|first| *first != b'{') || n_json > MAX_HEADER_BYTES {
        if rest.first() == Some(&b'{') {
            let message = format!("a header of {n_json} bytes; at most {MAX_HEADER_BYTES} are accepted");
            return Err(Error::new(ErrorCode::LimitExceeded, message).at("header"));
        }
        return Err(not_safetensors(prefix));
    }
    let data_start = LEN_BYTES + n_json;
    match usize::try_from(n_json).ok().and_then(|n_json| rest.get(..n_json)) {
        None => need(data_start),
        Some(json) => entries::header(json, data_start, file_len).map(Parsed::Header),
    }
}

fn not_safetensors(prefix: &[u8]) -> Error {
    let words = if prefix.starts_with(b"GGUF") { "is a GGUF file" } else { looks_like(prefix) };
    Error::new(ErrorCode::NotAModel, format!("not a safetensors file: it {words}")).at("header")
}

#[cfg(test)]
mod tests;
