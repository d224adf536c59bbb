//! GGUF headers, versions 2 and 3, parsed from a growing prefix of the file.
//!
//! Principal function: [`parse`]. Must not know models or decode tensors.

use super::Metadata;
use crate::error::Result;
use crate::tensor::TensorDesc;

/// Everything that stands before the tensor data.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// All keys.
    pub metadata: Metadata,
    /// All tensors in file order; offsets are absolute.
    pub tensors: Vec<TensorDesc>,
    /// Where the data section starts.
    pub data_offset: u64,
    /// `general.alignment`, 32 by default.
    pub alignment: u64,
}

/// What a prefix of a file gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// The header goes on: at least this many bytes from the start of the file are needed.
    NeedMore(u64),
    /// The header is whole.
    Header(Box<GgufHeader>),
}

/// Parses the header from the first bytes of a file.
///
/// `file_len` is the size of the whole file if known: with it, counts and tensors that cannot fit are refused early.
/// # Errors
/// A typed error with the path of the field at fault; see the module's tests for the whole table.
pub fn parse(prefix: &[u8], file_len: Option<u64>) -> Result<Parsed> {
    let _ = (prefix, file_len);
    crate::bail!(Internal, "not written yet")
}
