//! Any bytes as a GGUF header.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    if let Err(failure) = checks::header(file) {
        panic!("{failure}");
    }
});
