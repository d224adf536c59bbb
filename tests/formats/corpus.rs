//! Replays the fuzz corpus: what a fuzzer once found must stay fixed.

use std::path::PathBuf;

use super::{checks, table};
use crate::common::gguf_writer::{Writer, tiny_llama};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf_header")
}

#[test]
fn the_corpus_passes() {
    let mut n_files = 0;
    for entry in std::fs::read_dir(corpus()).expect("the corpus is part of the repository") {
        let path = entry.expect("a readable folder").path();
        let file = std::fs::read(&path).expect("a readable file");
        assert_eq!(checks::header(&file), Ok(()), "{}", path.display());
        for steps in [&[1][..], &[7, 64, 3], &[200]] {
            for file_len in [None, Some(file.len() as u64)] {
                assert_eq!(checks::stream(&file, steps, file_len), Ok(()), "{} by {steps:?}", path.display());
            }
        }
        n_files += 1;
    }
    assert!(n_files > 40, "only {n_files} files");
}

/// Writes the small files of the table of malformed inputs, and valid ones, as seeds.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    /// Larger seeds only slow the fuzzer down.
    const MAX_SEED_BYTES: usize = 256;
    std::fs::create_dir_all(corpus()).expect("a writable source tree");
    let mut one_tensor = Writer::default();
    one_tensor.tensors.push(tiny_llama().tensors.swap_remove(1));
    let valid = [("valid", tiny_llama().file()), ("valid-one-tensor", one_tensor.file())];
    let small = table::rows().into_iter().filter(|row| row.file.len() <= MAX_SEED_BYTES);
    for (name, file) in valid.into_iter().chain(small.map(|row| (row.name, row.file))) {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        std::fs::write(corpus().join(name), file).expect("a writable source tree");
    }
}
