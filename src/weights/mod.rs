//! From a model file to a filled backend: which tensors are needed, where they stand, and in which pieces they
//! arrive. Principal types: [`WeightMap`] and the traits [`ByteSource`] and [`BlobStore`].
//! Must not know backends, families or the web.

use std::ops::Range;

use crate::error::Result;

/// Bytes of a model, wherever they are: an HTTP server with ranges, a `File`, a native file, memory.
#[allow(async_fn_in_trait, reason = "single-threaded by design: no Send bounds wanted")]
pub trait ByteSource {
    /// Size of the whole, when known.
    fn size(&self) -> Option<u64>;
    /// Reads exactly `range`.
    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>>;
}
