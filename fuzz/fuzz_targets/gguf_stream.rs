//! Any bytes as a GGUF header that arrives in pieces. The last bytes choose the sizes of the pieces.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod checks;

/// Bytes at the end of the input that are step sizes and no part of the file.
const N_STEPS: usize = 8;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((file, steps)) = input.split_last_chunk::<N_STEPS>() else { return };
    let steps = steps.map(usize::from);
    for file_len in [Some(file.len() as u64), None] {
        if let Err(failure) = checks::stream(file, &steps, file_len) {
            panic!("{failure}");
        }
    }
});
