//! What a file looks like that is not GGUF: an error page, a pointer, an archive, a model of another format.
//! Must not know anything beyond first bytes.

use super::reader::{Reader, Stop};
use crate::error::ErrorCode;

/// Enough of the start of a file to tell what it is.
const SNIFF_BYTES: u64 = 64;

/// Reads the magic number, or says what the file is instead.
pub(super) fn magic(reader: &mut Reader<'_>) -> Result<(), Stop> {
    const MAGIC: &[u8] = b"GGUF";
    if reader.prefix().starts_with(MAGIC) {
        return reader.take(MAGIC.len() as u64).map(|_| ());
    }
    let wanted = reader.file_len().map_or(SNIFF_BYTES, |len| len.min(SNIFF_BYTES));
    reader.need(wanted)?;
    let start = &reader.prefix()[..wanted as usize];
    if MAGIC.starts_with(start) && !start.is_empty() {
        return reader.fail(
            ErrorCode::Truncated,
            format!("the file has only {wanted} bytes: the download was cut short"),
        );
    }
    reader.fail(ErrorCode::NotAModel, format!("not a GGUF file: it {}", looks_like(start)))
}

/// Half a sentence about a file that starts with `bytes`.
pub(in crate::formats) fn looks_like(bytes: &[u8]) -> &'static str {
    const BINARY: &[(&[u8], &str)] = &[
        (
            b"version https://git-lfs",
            "is a git-lfs pointer, not the file it points to; download it through the repository's 'resolve' address",
        ),
        (b"\x1f\x8b", "is compressed with gzip; unpack it first, or stop the server from serving it so"),
        (b"PK", "is a zip archive or a PyTorch checkpoint; a GGUF file is needed"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
        (b"\xfd7zXZ\0", "is compressed with xz; unpack it first"),
        (b"BZh", "is compressed with bzip2; unpack it first"),
        (b"\x80\x02", "is a Python pickle, such as an old PyTorch checkpoint; a GGUF file is needed"),
        (b"lmgg", "is of the GGML format, out of use since 2023; get a GGUF conversion of the model"),
        (b"tjgg", "is of the GGJT format, out of use since 2023; get a GGUF conversion of the model"),
        (b"fmgg", "is of the GGMF format, out of use since 2023; get a GGUF conversion of the model"),
        (b"%PDF", "is a PDF document"),
    ];
    if bytes.is_empty() {
        return "is empty";
    }
    if let Some((_, words)) = BINARY.iter().find(|(start, _)| bytes.starts_with(start)) {
        return words;
    }
    if is_safetensors(bytes) {
        return "is a safetensors file; a GGUF file is needed";
    }
    if is_onnx(bytes) {
        return "is an ONNX model; a GGUF file is needed";
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    match text.first() {
        Some(b'<') => "is an HTML or XML page, perhaps the server's error page; check the address",
        Some(b'{' | b'[') => "is JSON, perhaps the server's error message; check the address",
        Some(_) if text.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
            "is text, perhaps the server's error message; check the address"
        }
        _ => "starts with none of the known signatures",
    }
}

/// A little-endian length and then the JSON header.
fn is_safetensors(bytes: &[u8]) -> bool {
    const MAX_HEADER: u64 = 100_000_000;
    match bytes.split_first_chunk::<8>() {
        Some((length, rest)) => u64::from_le_bytes(*length) <= MAX_HEADER && rest.first() == Some(&b'{'),
        None => false,
    }
}

/// A protobuf whose first field is `ir_version` (1, a small number) and whose second is the producer (2, a string).
fn is_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x20, 0x12, ..])
}
