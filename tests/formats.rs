//! GGUF headers: real files, malformed ones, and the limits on memory.

mod common;
#[path = "formats/files.rs"]
mod files;
#[path = "formats/malformed.rs"]
mod malformed;
#[path = "formats/table.rs"]
mod table;
