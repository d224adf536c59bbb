//! AWQ and GPTQ layers, decoded to the very bits of an independent implementation.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::path::Path;

use lamplight::engine::native;
use lamplight::quant::format;
use lamplight::tensor::DType;
use lamplight::weights::{
    Assembler, ByteSource, Checkpoint, FileSource, Need, PART_BYTES, Packed, Packing, WeightMap,
};
use pollster::block_on;
use proptest::prelude::*;
use safetensors::SafeTensors;

/// The decoded values of one tensor of a folder.
fn decoded(model: &Checkpoint, sources: &[FileSource], name: &str) -> Vec<f32> {
    let tensor = model.tensor(name).unwrap();
    let n_cols = tensor.dims[0];
    let n_rows = tensor.n_elements() / n_cols;
    let need = Need { name: name.into(), part_of: None, n_cols, n_rows, vector: false };
    let map = WeightMap::resolve(&[need], model).unwrap();
    let mut bytes = Vec::new();
    let mut sink = |_, offset: u64, piece: &[u8]| {
        assert_eq!(offset, bytes.len() as u64);
        bytes.extend_from_slice(piece);
        Ok(())
    };
    let mut assembler = Assembler::new(&map);
    for part in map.parts(PART_BYTES) {
        let read = block_on(sources[part.file].read(part.range.clone())).unwrap();
        for piece in map.pieces(part.file, part.range) {
            assembler.take(&piece, &read[piece.range.clone()], &mut sink).unwrap();
        }
    }
    assembler.finish(&mut sink).unwrap();
    let mut values = vec![0.0; tensor.n_elements() as usize];
    (format(tensor.dtype).dequant)(&bytes, &mut values);
    values
}

/// Every set whose reference has a decoded layer (`dequant.*`, `[n_out, n_in]` in the order of the model).
#[test]
fn layers_decode_to_the_bits_of_the_reference() {
    let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf");
    let mut n_checked = 0;
    for entry in std::fs::read_dir(sets).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(file) = std::fs::read(dir.join("reference.safetensors")) else { continue };
        let reference = SafeTensors::deserialize(&file).unwrap();
        for name in reference.names().into_iter().filter(|name| name.starts_with("dequant.")) {
            let (sources, model) = block_on(native::open(&dir)).unwrap();
            let expected = reference.tensor(name).unwrap();
            let expected = expected
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|x| f32::from_le_bytes(*x))
                .collect::<Vec<f32>>();
            if name.ends_with("layers.0.mlp.experts.gate_up_proj") {
                check_experts(&model, &sources, &expected);
                continue;
            }
            assert!(name.contains("layers.0.self_attn.q_proj"), "{name}");
            let tensor = model.tensor("blk.0.attn_q.weight").unwrap();
            let mut found = decoded(&model, &sources, "blk.0.attn_q.weight");
            if model.tensor("blk.0.attn_q.perm").is_some() {
                let order = decoded(&model, &sources, "blk.0.attn_q.perm");
                assert!(!order.is_sorted(), "the set is to prove that columns are put in order");
                let stored = found.clone();
                for (row, out) in stored.chunks(order.len()).zip(found.chunks_mut(order.len())) {
                    row.iter().zip(&order).for_each(|(value, column)| out[*column as usize] = *value);
                }
            }
            // Zeros may differ in their sign.
            assert!(found == expected, "{}: {name}", dir.display());
            println!("{}: {} values of {:?}", dir.display(), found.len(), tensor.dtype);
            n_checked += 1;
        }
    }
    assert!(n_checked >= 3, "only {n_checked} layers were checked");
}

/// Gate and up of gpt-oss, which alternate in the columns of the reference `[n_experts, n_in, 2 * n_out]`.
fn check_experts(model: &Checkpoint, sources: &[FileSource], expected: &[f32]) {
    for (which, name) in ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"].into_iter().enumerate() {
        let [n_in, n_out, n_experts] = model.tensor(name).unwrap().dims[..] else { panic!("no experts") };
        let (n_in, n_out) = (n_in as usize, n_out as usize);
        let found = decoded(model, sources, name);
        assert_eq!(2 * found.len(), expected.len());
        for expert in 0..n_experts as usize {
            for (row, input) in (0..n_out).flat_map(|row| (0..n_in).map(move |input| (row, input))) {
                let value = found[(expert * n_out + row) * n_in + input];
                assert_eq!(value, expected[(expert * n_in + input) * 2 * n_out + 2 * row + which], "{name}");
            }
        }
    }
}

/// Appends numbers of `bits` to a stream of bits, lowest first, as whole words.
fn pack(numbers: &[u32], bits: usize) -> Vec<u32> {
    let stream = numbers.iter().flat_map(|number| (0..bits).map(move |bit| number >> bit & 1));
    let stream: Vec<u32> = stream.collect();
    stream.chunks(32).map(|word| word.iter().enumerate().map(|(at, bit)| bit << at).sum()).collect()
}

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_width_of_gptq_is_unpacked(
        bits in prop::sample::select(vec![2usize, 3, 4, 8]),
        zero_offset in 0u32..2,
        blocks in 1usize..4,
        shuffled in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let (n_in, n_out, group_size) = (64 * blocks, 32, 64);
        let n_groups = n_in / group_size;
        let mut state = seed;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let quants: Vec<u32> = (0..n_in * n_out).map(|_| random(1 << bits)).collect();
        let zeros: Vec<u32> = (0..n_groups * n_out).map(|_| random(1 << bits)).collect();
        let scales: Vec<f32> = (0..n_groups * n_out).map(|_| random(1000) as f32 / 1024.0).collect();
        let mut group_of: Vec<u32> = (0..n_in as u32).map(|input| input / group_size as u32).collect();
        for at in (1..n_in).rev().filter(|_| shuffled) {
            group_of.swap(at, random(at as u32 + 1) as usize);
        }
        // Inputs run along the bits: pack each output's column and put the words in rows of outputs.
        let columns: Vec<Vec<u32>> = (0..n_out)
            .map(|row| pack(&(0..n_in).map(|input| quants[input * n_out + row]).collect::<Vec<_>>(), bits))
            .collect();
        let qweight = bytes((0..columns[0].len()).flat_map(|word| columns.iter().map(move |column| column[word])));
        let qzeros = bytes(zeros.chunks(n_out).flat_map(|row| pack(row, bits)));
        let packed = Packed {
            packing: Packing::Gptq, bits, n_in, n_out, n_groups, group_size, zero_offset,
            act_order: true, has_g_idx: true, scales: DType::F32,
        };
        let scale_bytes = bytes(scales.iter().map(|scale| scale.to_bits()));
        let g_idx = bytes(group_of.iter().copied());
        let out = packed.run(&[qweight, qzeros, scale_bytes, g_idx.clone()]).unwrap();
        let mut found = vec![0.0; n_in * n_out];
        (format(packed.dtype()).dequant)(&out, &mut found);
        let order = packed.order(&g_idx).unwrap();
        for (at, column) in order.as_chunks::<4>().0.iter().enumerate() {
            let input = f32::from_le_bytes(*column) as usize;
            for row in 0..n_out {
                let index = group_of[input] as usize * n_out + row;
                let zero = zeros[index] + zero_offset;
                let expected = scales[index] * (quants[input * n_out + row] as f32 - zero as f32);
                prop_assert_eq!(found[row * n_in + at], expected, "{} bits, input {}, output {}", bits, input, row);
            }
        }
    }
}
