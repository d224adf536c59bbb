//! Every weight format decodes bit for bit as the reference implementation does.
#![cfg(not(target_arch = "wasm32"))]

use lamplight::quant::FORMATS;
use lamplight::tensor::DType;
use safetensors::SafeTensors;

/// Blocks and the float32 values that PyPI `gguf` (equal to ggml's C code) decodes them to; see
/// tests/golden/README.md.
const BLOCKS: &[u8] = include_bytes!("golden/quant/blocks.safetensors");

#[test]
fn dequant_is_bit_exact() {
    let file = SafeTensors::deserialize(BLOCKS).unwrap();
    let mut n_checked = 0;
    // What AWQ and GPTQ weights become in memory is no file's format; tests/packed.rs holds it to their references.
    let in_files = FORMATS.iter().filter(|format| !matches!(format.dtype, DType::A4 | DType::A8));
    for format in in_files {
        for suffix in ["", ".raw"] {
            let name = format!("{}{suffix}", format.name.to_uppercase());
            let Ok(blocks) = file.tensor(&format!("{name}.blocks")) else {
                assert!(!suffix.is_empty() && format.block_len == 1, "no data for {name}");
                continue;
            };
            let values = file.tensor(&format!("{name}.values")).unwrap();
            let expected: Vec<u32> =
                values.data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
            let mut out = vec![f32::NAN; expected.len()];
            // From an odd address: files do not promise more than their own alignment, and slices of them less.
            let mut shifted = vec![0];
            shifted.extend_from_slice(blocks.data());
            (format.dequant)(&shifted[1..], &mut out);
            let found: Vec<u32> = out.iter().map(|value| value.to_bits()).collect();
            assert_eq!(found, expected, "{name}");
            assert_eq!(format.first_non_finite(blocks.data()), None, "{name}");
            n_checked += 1;
        }
    }
    assert_eq!(n_checked, 31 + 25, "plain and random blocks of every format");
}

/// Rows and what ggml's C code makes of them in every format that it and we quantise to.
const QUANTISED: &[u8] = include_bytes!("golden/quant/quantised.safetensors");

#[test]
fn quantised_rows_are_those_of_ggml() {
    let file = SafeTensors::deserialize(QUANTISED).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let tensor = file.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (source, importance) = (floats("source"), floats("importance"));
    let mut n_checked = 0;
    for format in FORMATS {
        let Some(quantize) = format.quantize else { continue };
        for (suffix, importance) in [("", None), (".importance", Some(importance.as_slice()))] {
            let name = format!("{}{suffix}", format.name.to_uppercase());
            let Ok(expected) = file.tensor(&name) else { continue };
            let n_bytes = 512 / format.block_len * format.block_bytes;
            for (index, (row, expected)) in
                source.chunks(512).zip(expected.data().chunks(n_bytes)).enumerate()
            {
                let mut out = vec![0; n_bytes];
                quantize(row, importance, &mut out);
                let at = out.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(at, None, "{name}, row {index}: first different byte");
            }
            n_checked += 1;
        }
    }
    assert_eq!(n_checked, 2 * 12 + 2);
}
