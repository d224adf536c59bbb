//! The one error type of the crate: a stable code, a message for a person, and where it happened.
//!
//! Principal type: [`Error`]. Leaf modules may keep their own precise enums and convert. This module must not know
//! any of the modules that use it. The codes reach JavaScript unchanged as `LamplightError.code`, so a code, once
//! released, keeps its spelling and meaning.

use std::fmt;

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What went wrong, as a closed list. [`ErrorCode::as_str`] is what JavaScript sees.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, for the tests that hold the TypeScript union equal to this list.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The stable spelling of the code.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $code,)* }
            }
        }
    };
}

error_codes! {
    /// The bytes are not a model file at all: an HTML page, a git-lfs pointer, an archive.
    NotAModel = "not-a-model",
    /// The file ends before what its header promises.
    Truncated = "truncated",
    /// The file breaks a rule of its format.
    Malformed = "malformed",
    /// A count or length is over the limit that Lamplight sets for it.
    LimitExceeded = "limit-exceeded",
    /// The format's version is not supported (or the file is big-endian).
    UnsupportedVersion = "unsupported-version",
    /// A weight format that is unknown, removed from GGUF, or not supported yet.
    UnsupportedType = "unsupported-type",
    /// No family of this name is known.
    UnsupportedArchitecture = "unsupported-architecture",
    /// The vocabulary or its pre-tokenizer is of a kind that is not supported.
    UnsupportedTokenizer = "unsupported-tokenizer",
    /// A metadata key that the model needs is missing.
    MissingKey = "missing-key",
    /// A metadata key has a value of the wrong type.
    WrongType = "wrong-type",
    /// A value is of the right type but makes no sense.
    InvalidValue = "invalid-value",
    /// A tensor that the architecture needs is missing.
    MissingTensor = "missing-tensor",
    /// A tensor has another shape than the architecture needs.
    WrongShape = "wrong-shape",
    /// The chat template failed, refused the messages, or used up its allowance.
    TemplateError = "template-error",
    /// The caller's arguments are wrong.
    InvalidRequest = "invalid-request",
    /// The prompt and the requested tokens do not fit the context.
    ContextLengthExceeded = "context-length-exceeded",
    /// The caller cancelled.
    Aborted = "aborted",
    /// The engine was disposed.
    Disposed = "disposed",
    /// The network failed; the same call may work later.
    Network = "network",
    /// The server answered with a status that is not a success.
    HttpStatus = "http-status",
    /// Reading or writing a local file failed.
    Io = "io",
    /// Browser storage failed.
    Storage = "storage",
    /// Browser storage is full.
    QuotaExceeded = "quota-exceeded",
    /// Stored or received bytes are not the expected ones.
    Integrity = "integrity",
    /// There is no usable WebGPU adapter, and the caller asked for one.
    GpuUnavailable = "gpu-unavailable",
    /// The GPU device was lost.
    GpuLost = "gpu-lost",
    /// A GPU kernel failed to compile, or gave wrong values in the self-check.
    GpuCheckFailed = "gpu-check-failed",
    /// Memory ran out, on the GPU or in the wasm heap.
    OutOfMemory = "out-of-memory",
    /// The worker could not be started or died.
    WorkerFailed = "worker-failed",
    /// The tab that ran a shared engine is gone, and what it was writing could not be gone on with.
    Interrupted = "interrupted",
    /// A bug in Lamplight.
    Internal = "internal",
}

/// An error: what ([`ErrorCode`]), where (`field`, a path such as `llama.rope.freq_base` or `tensors[3].dims[1]`),
/// and a message that says what to do.
#[derive(Debug)]
pub struct Error {
    code: ErrorCode,
    message: String,
    field: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error of `code`; the message should say what is wrong and what to do about it.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, source: None }
    }

    /// The same error, pointing at a field of the input.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same error, keeping what caused it.
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Which field of the input is at fault, if one is.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The message without code and field.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{} [{}] at {field}", self.message, self.code.as_str()),
            None => write!(f, "{} [{}]", self.message, self.code.as_str()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// `bail!(Code, "format {args}")`: returns an [`Error`] from the current function.
#[macro_export]
macro_rules! bail {
    ($code:ident, $($arg:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorCode::$code, format!($($arg)*)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_kebab_case() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "duplicate code {}", code.as_str());
            assert!(code.as_str().chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        }
    }
}
