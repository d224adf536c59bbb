//! Helpers that several test binaries share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "the module is included by path, where its privacy differs")]

pub mod gguf_writer;
