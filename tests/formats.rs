//! GGUF headers: valid files, malformed ones, random damage, and what a fuzzer found.
#![cfg(not(target_arch = "wasm32"))]

#[path = "../fuzz/checks.rs"]
mod checks;
mod common;
#[path = "formats/corpus.rs"]
mod corpus;
#[path = "formats/files.rs"]
mod files;
#[path = "formats/malformed.rs"]
mod malformed;
#[path = "formats/properties.rs"]
mod properties;
#[path = "formats/table.rs"]
mod table;
