//! A cursor over the prefix of a file that knows which field it is at. Principal type: [`Reader`].
//! Must not know what the fields mean.

use std::fmt;

use super::MAX_HEADER_BYTES;
use crate::error::{Error, ErrorCode};

/// Why reading stopped.
pub(super) enum Stop {
    /// This many bytes from the start of the file are needed.
    NeedMore(u64),
    /// The file is bad. Boxed, since every read returns one of these.
    Failed(Box<Error>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(Box::new(error))
    }
}

/// Path of a field, put into words only when something is wrong with it.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    /// A field of the fixed header.
    Plain(&'static str),
    /// The name of a key, before it is known.
    KeyName(u64),
    /// The value of a key.
    Value(&'a str),
    /// An element of an array.
    Item(&'a str, u64),
    /// A field of a tensor record.
    Tensor(usize, &'static str),
    /// A dimension of a tensor.
    Dim(usize, u32),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Plain(name) => f.write_str(name),
            Field::KeyName(index) => write!(f, "kv[{index}].key"),
            Field::Value(key) => f.write_str(key),
            Field::Item(key, index) => write!(f, "{key}[{index}]"),
            Field::Tensor(index, field) => write!(f, "tensors[{index}].{field}"),
            Field::Dim(index, dim) => write!(f, "tensors[{index}].dims[{dim}]"),
        }
    }
}

/// The cursor.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    file_len: Option<u64>,
    field: Field<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], file_len: Option<u64>) -> Self {
        Self { bytes, pos: 0, file_len, field: Field::Plain("magic") }
    }

    /// Says which field is read next, for the errors.
    pub(super) fn at(&mut self, field: Field<'a>) {
        self.field = field;
    }

    /// Bytes from the start of the file.
    pub(super) fn pos(&self) -> u64 {
        self.pos as u64
    }

    /// Size of the file, if known.
    pub(super) fn file_len(&self) -> Option<u64> {
        self.file_len
    }

    /// The whole prefix.
    pub(super) fn prefix(&self) -> &'a [u8] {
        self.bytes
    }

    /// An error at the current field.
    pub(super) fn fail<T>(&self, code: ErrorCode, message: impl Into<String>) -> Result<T, Stop> {
        Err(Error::new(code, message).at(self.field.to_string()).into())
    }

    /// Makes sure that `n_bytes` more are there, and returns where they end.
    pub(super) fn need(&self, n_bytes: u64) -> Result<usize, Stop> {
        let end = self.pos().checked_add(n_bytes);
        if let Some(file_len) = self.file_len
            && end.is_none_or(|end| end > file_len)
        {
            let message = format!(
                "{n_bytes} bytes are needed from byte {}, but the file has only {file_len}: it was cut short or is damaged",
                self.pos
            );
            return self.fail(ErrorCode::Truncated, message);
        }
        match end {
            Some(end) if end <= MAX_HEADER_BYTES => match usize::try_from(end) {
                Ok(end) if end <= self.bytes.len() => Ok(end),
                _ => Err(Stop::NeedMore(end)),
            },
            _ => self.fail(
                ErrorCode::LimitExceeded,
                format!("the header goes beyond {MAX_HEADER_BYTES} bytes, the most that is accepted"),
            ),
        }
    }

    /// The next `n_bytes`.
    pub(super) fn take(&mut self, n_bytes: u64) -> Result<&'a [u8], Stop> {
        let end = self.need(n_bytes)?;
        let bytes = &self.bytes[self.pos..end];
        self.pos = end;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("invariant: take returns what was asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length, at most `limit`, and its bytes.
    pub(super) fn string(&mut self, limit: u64) -> Result<&'a [u8], Stop> {
        let n_bytes = self.u64()?;
        if n_bytes > limit {
            let message = format!("a string of {n_bytes} bytes; at most {limit} are accepted");
            return self.fail(ErrorCode::LimitExceeded, message);
        }
        self.take(n_bytes)
    }

    /// A string that must be UTF-8.
    pub(super) fn text(&mut self, limit: u64) -> Result<&'a str, Stop> {
        let bytes = self.string(limit)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => self.fail(ErrorCode::Malformed, format!("the string is not UTF-8: {error}")),
        }
    }
}
