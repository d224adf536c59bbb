//! What families share: reading the keys that most of them have. Principal type: [`Decoder`]. Must not know a family.

mod decoder;
mod moe;
mod rope;

pub(super) use decoder::Decoder;
