//! Memory of the GGUF parser: bounded by what is there, not by what the file claims. A test binary of its own, with
//! one test, because it measures the whole process.
#![cfg(not(target_arch = "wasm32"))]

mod common;

use common::gguf_writer::{Kv, Tensor, Writer, tiny_llama};
use lamplight::formats::gguf::parse;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Worst case: an array of bytes becomes one of 64-bit numbers.
const MAX_MULTIPLE: usize = 10;
/// Errors, and the first nodes of small maps.
const MAX_EXTRA: usize = 16 << 10;

#[test]
fn memory_is_a_small_multiple_of_the_input() {
    let strings = |n: usize, text: &str| Kv::Strs(vec![text.to_owned(); n]);
    let bytes =
        |n: usize| Kv::Raw(9, [&0u32.to_le_bytes()[..], &(n as u64).to_le_bytes(), &vec![7; n]].concat());
    let claim =
        |element: u32, len: u64| Kv::Raw(9, [&element.to_le_bytes()[..], &len.to_le_bytes()].concat());
    let one = |value: Kv| {
        let mut writer = Writer::default();
        writer.set("key", value);
        writer.file()
    };
    let mut many_keys = Writer::default();
    let mut many_tensors = Writer::default();
    for index in 0..60_000u32 {
        many_keys.add(&index.to_be_bytes().map(|byte| byte & 0x7f), Kv::Bool(true));
    }
    many_keys.kv.sort_by(|(a, _), (b, _)| a.cmp(b));
    many_keys.kv.dedup_by(|(a, _), (b, _)| a == b);
    for index in 0..60_000u32 {
        let mut tensor = Tensor::new(&format!("{index:x}"), &[1], 0, vec![0; 4]);
        tensor.offset = Some(u64::from(index) * 32);
        many_tensors.tensors.push(tensor);
    }
    let cases = [
        ("tiny model", tiny_llama().file()),
        ("a million bytes as numbers", one(bytes(1 << 20))),
        ("a hundred thousand tokens", one(strings(100_000, "token"))),
        ("a hundred thousand empty strings", one(strings(100_000, ""))),
        ("one string of a MiB", one(Kv::Str("x".repeat(1 << 20)))),
        ("sixty thousand keys", many_keys.file()),
        ("sixty thousand tensors", many_tensors.header()),
        ("claims four million numbers", one(claim(10, 1 << 22))),
        ("claims four million strings", one(claim(8, 1 << 22))),
        ("claims four million bytes", one(claim(0, 1 << 22))),
        ("claims 2^64 - 1 numbers", one(claim(12, u64::MAX))),
        ("claims all tensors", Writer { n_tensors: Some(1 << 16), ..Writer::default() }.file()),
        ("claims all keys", Writer { n_kv: Some(1 << 16), ..Writer::default() }.file()),
    ];
    for (name, file) in &cases {
        for file_len in [None, Some(file.len() as u64)] {
            ALLOCATOR.reset_peak_usage();
            let before = ALLOCATOR.current_usage();
            let result = parse(file, file_len);
            let used = ALLOCATOR.peak_usage() - before;
            let allowed = MAX_MULTIPLE * file.len() + MAX_EXTRA;
            println!(
                "{name}: {} bytes in, {used} used ({:.1} x)",
                file.len(),
                used as f64 / file.len() as f64
            );
            assert!(used <= allowed, "{name}: {used} bytes for {} of input", file.len());
            drop(result);
        }
    }
}
