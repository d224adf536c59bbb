//! Any bytes as a file of a Hugging Face folder: a safetensors header, an index, a config.json.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    if let Err(failure) = checks::folder(file) {
        panic!("{failure}");
    }
});
