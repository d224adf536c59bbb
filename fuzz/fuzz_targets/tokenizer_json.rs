//! A tokenizer.json and a text in one input, parted by the first zero byte: neither may panic, hang or take memory out of
//! proportion, and ids stay in the vocabulary.
#![no_main]

use lamplight::text::{EncodeOptions, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (file, text) = data.split_at(at);
    let Ok(tokenizer) = Tokenizer::from_hf(file, None) else {
        return;
    };
    for parse_special in [false, true] {
        let ids = tokenizer.encode_bytes(text, EncodeOptions { add_special: true, parse_special });
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.n_vocab()));
        tokenizer.decode(&ids, parse_special);
    }
});
