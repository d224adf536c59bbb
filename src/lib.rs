//! Lamplight runs open-weight language models inside a web page, and natively for tests and benchmarks.
//!
//! Modules in the order of their dependencies; a module may use those before it and never those after
//! (`tests/layering.rs` holds this):
//! `error, tensor <- formats <- quant <- weights <- model <- backend <- generate <- engine <- web`;
//! `text` is a leaf used by `generate` and `engine`.

pub mod error;
pub mod tensor;

pub mod formats;
pub mod quant;
pub mod weights;

pub mod model;

pub mod backend;

pub mod text;

pub mod generate;

pub mod engine;

#[cfg(target_arch = "wasm32")]
pub mod web;
