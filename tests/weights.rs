//! However a file is cut, its pieces make up every needed tensor, byte for byte.
#![cfg(not(target_arch = "wasm32"))]

mod common;

use common::gguf_writer::{Tensor, Writer};
use lamplight::error::ErrorCode;
use lamplight::formats::gguf::{GgufHeader, Parsed, parse};
use lamplight::quant::FORMATS;
use lamplight::weights::{Need, WeightMap};
use proptest::prelude::*;

/// A file of tensors of any format; `shapes` has format, blocks per row and rows.
fn file(shapes: &[(usize, u64, u64)]) -> (Vec<u8>, GgufHeader) {
    let mut writer = Writer::default();
    let mut counter = 0u32;
    for (index, (format, blocks, rows)) in shapes.iter().enumerate() {
        let format = &FORMATS[format % FORMATS.len()];
        let n_bytes = *blocks as usize * format.block_bytes * *rows as usize;
        // No two words of the file are equal, so a wrong place shows.
        let data = (0..n_bytes.div_ceil(4)).flat_map(|_| {
            counter += 1;
            counter.to_le_bytes()
        });
        let dims = [blocks * format.block_len as u64, *rows];
        writer.tensors.push(Tensor::new(
            &format!("t{index}"),
            &dims,
            format.ggml_id,
            data.take(n_bytes).collect(),
        ));
    }
    let file = writer.file();
    match parse(&file, Some(file.len() as u64)) {
        Ok(Parsed::Header(header)) => (file, *header),
        other => panic!("{other:?}"),
    }
}

/// Needs of the tensors whose numbers are in `wanted`, in that order.
fn needs(header: &GgufHeader, wanted: &[usize]) -> Vec<Need> {
    let tensors = wanted.iter().map(|index| &header.tensors[*index]);
    tensors
        .map(|tensor| Need {
            name: tensor.name.clone(),
            n_cols: tensor.n_cols(),
            n_rows: tensor.n_rows(),
            vector: false,
        })
        .collect()
}

/// Collects the pieces of all `ranges` and checks their order on the way.
fn reassemble(file: &[u8], map: &WeightMap, ranges: &[std::ops::Range<u64>]) -> Vec<Vec<u8>> {
    let mut weights = vec![Vec::new(); map.len()];
    for range in ranges {
        let bytes = &file[range.start as usize..range.end as usize];
        for piece in map.pieces(range.clone()) {
            assert!(!piece.range.is_empty(), "an empty piece");
            assert_eq!(piece.offset, weights[piece.weight].len() as u64, "pieces follow each other");
            if range.start % 4 == 0 {
                assert_eq!(piece.offset % 4, 0, "pieces start at whole words");
            }
            weights[piece.weight].extend_from_slice(&bytes[piece.range]);
        }
    }
    weights
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_up_every_tensor(
        shapes in prop::collection::vec((0usize..11, 1u64..4, 1u64..9), 1..9),
        order in any::<prop::sample::Index>(),
        skipped in any::<prop::sample::Index>(),
        steps in prop::collection::vec(1u64..700, 1..9),
        part_words in 1u64..500,
    ) {
        let (file, header) = file(&shapes);
        // All tensors but one, in another order than the file's.
        let mut wanted: Vec<usize> = (0..shapes.len()).collect();
        wanted.rotate_left(order.index(shapes.len()));
        if wanted.len() > 1 {
            wanted.remove(skipped.index(wanted.len()));
        }
        let map = WeightMap::resolve(&needs(&header, &wanted), &header).unwrap();
        let expected: Vec<Vec<u8>> = (0..map.len())
            .map(|weight| {
                let tensor = map.tensor(weight);
                file[tensor.offset as usize..(tensor.offset + tensor.n_bytes) as usize].to_vec()
            })
            .collect();
        prop_assert_eq!(map.total_bytes(), expected.iter().map(|bytes| bytes.len() as u64).sum::<u64>());

        // Cut anywhere.
        let (mut ranges, mut start) = (Vec::new(), 0);
        for step in steps.iter().cycle() {
            let end = (start + step).min(file.len() as u64);
            ranges.push(start..end);
            start = end;
            if start == file.len() as u64 {
                break;
            }
        }
        prop_assert_eq!(&reassemble(&file, &map, &ranges), &expected);
        // Cut into parts of whole words, and not at all.
        let parts = map.parts(4 * part_words);
        prop_assert!(parts.iter().all(|part| part.start % (4 * part_words) == 0 && part.end > part.start));
        prop_assert_eq!(&reassemble(&file, &map, &parts), &expected);
        prop_assert_eq!(&reassemble(&file, &map, &[map.file_range()]), &expected);
    }
}

#[test]
fn shapes_and_names_are_checked() {
    let (_, header) = file(&[(0, 4, 6), (0, 6, 1), (3, 2, 3)]);
    let need = |name: &str, n_cols, n_rows, vector| Need { name: name.into(), n_cols, n_rows, vector };
    let resolve = |needs: &[Need]| match WeightMap::resolve(needs, &header) {
        Ok(map) => Ok(map.dtypes()),
        Err(error) => Err((error.code(), error.field().map(str::to_owned))),
    };
    use lamplight::tensor::DType::{F32, Q4_1};
    let at = |code, name: &str| Err((code, Some(name.to_owned())));
    assert_eq!(resolve(&[need("t2", 64, 3, false), need("t0", 4, 6, false)]), Ok(vec![Q4_1, F32]));
    // t1 is [6, 1]: a vector, or a matrix of one row.
    assert_eq!(resolve(&[need("t1", 6, 1, true)]), Ok(vec![F32]));
    assert_eq!(resolve(&[need("t1", 6, 1, false)]), Ok(vec![F32]));
    assert_eq!(resolve(&[need("t0", 6, 4, false)]), at(ErrorCode::WrongShape, "t0"));
    assert_eq!(resolve(&[need("t0", 4, 1, true)]), at(ErrorCode::WrongShape, "t0"));
    assert_eq!(resolve(&[need("t9", 4, 6, false)]), at(ErrorCode::MissingTensor, "t9"));
    assert_eq!(resolve(&[need("t0", 4, 6, false), need("t0", 4, 6, false)]), at(ErrorCode::Internal, "t0"));
    let none = WeightMap::resolve(&[], &header).unwrap();
    assert!(none.is_empty() && none.file_range().is_empty());
    assert_eq!(none.pieces(0..1_000_000).count(), 0);
}

#[test]
fn scales_are_checked_across_cuts() {
    let (file, header) = file(&[(2, 4, 8)]);
    let map = WeightMap::resolve(&needs(&header, &[0]), &header).unwrap();
    let tensor = map.tensor(0).clone();
    let start = tensor.offset as usize;
    let mut data = file[start..start + tensor.n_bytes as usize].to_vec();
    // Words that count up from 1 are small halves at the scales' places; make sure, then damage block 7.
    assert!(map.check_scales(0, 0, &data).is_ok());
    data[7 * 18..][..2].copy_from_slice(&[0, 0x7c]);
    for offset in [0, 4, 100, 124] {
        let error = map.check_scales(0, offset as u64, &data[offset..]).unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidValue, Some("t0")));
        assert!(error.message().contains("block 7 "), "{error}");
    }
    // The piece does not hold the start of block 7, or not all of it.
    assert!(map.check_scales(0, 128, &data[128..]).is_ok());
    assert!(map.check_scales(0, 0, &data[..140]).is_ok());
    assert!(map.check_scales(0, 4, &data[4..9]).is_ok());
}
