//! From a model file to a filled backend: which tensors are needed, where they stand, and in which pieces they
//! arrive.
//!
//! Principal types: [`WeightMap`] and the trait [`ByteSource`]. Must not know graphs, backends, families or the web.

mod map;
mod source;

pub use map::{Need, PART_BYTES, Piece, WeightMap};
#[cfg(not(target_arch = "wasm32"))]
pub use source::FileSource;
pub use source::{ByteSource, MemorySource, read_header};
