//! Bytes to facts: what a model file says about itself. No tensors are decoded here, nothing is allocated beyond a
//! small multiple of the input, nothing is async, all offsets are `u64`. Must not know models, backends or the web.

pub mod config_json;
pub mod gguf;
mod imatrix;
pub mod metadata;
pub mod safetensors;
pub mod tokenizer_json;

pub use imatrix::Imatrix;
pub use metadata::{Container, Metadata, StringArray, Value};
