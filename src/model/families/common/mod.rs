//! What families share: reading the keys that most of them have. Principal type: [`Decoder`]. Must not know a family.

mod decoder;
mod rope;

pub(super) use decoder::Decoder;
