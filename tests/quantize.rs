//! Weights in other formats: at load, into files, with importance matrices.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/gguf_writer.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that need more of it")]
mod gguf_writer;

use std::path::{Path, PathBuf};

use gguf_writer::{Kv, Tensor, Writer};
use lamplight::backend::cpu::CpuMode;
use lamplight::engine::native::{BackendOptions, load, open};
use lamplight::engine::quantize::quantize;
use lamplight::engine::{LoadOptions, Loading, NoPause};
use lamplight::error::ErrorCode;
use lamplight::formats::Imatrix;
use lamplight::quant::{self, FORMATS, Packing};
use lamplight::tensor::DType;
use lamplight::weights::{Assembler, ByteSource, Recipe, WeightMap};
use pollster::block_on;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn temp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("quantize-{name}.gguf"))
}

/// What a backend would be given, weight by weight, from parts of `part_bytes`.
fn given(map: &WeightMap, sources: &[impl ByteSource], part_bytes: u64) -> Vec<Vec<u8>> {
    let mut weights = vec![Vec::new(); map.len()];
    let mut assembler = Assembler::new(map);
    let mut sink = |weight: usize, offset: u64, bytes: &[u8]| {
        assert_eq!(offset, weights[weight].len() as u64, "bytes follow each other");
        assert_eq!(offset % 4, 0, "pieces start at whole words");
        weights[weight].extend_from_slice(bytes);
        Ok(())
    };
    for part in map.parts(part_bytes) {
        let bytes = block_on(sources[part.file].read(part.range.clone())).unwrap();
        for piece in map.pieces(part.file, part.range) {
            assembler.take(&piece, &bytes[piece.range.clone()], &mut sink).unwrap();
        }
    }
    assembler.finish(&mut sink).unwrap();
    for (index, bytes) in weights.iter().enumerate() {
        assert_eq!(bytes.len() as u64, map.given_bytes(index), "weight {index}");
    }
    weights
}

fn loading(path: &Path, quantize: Option<DType>) -> (Vec<impl ByteSource>, Loading) {
    let (sources, model) = block_on(open(path)).unwrap();
    let options = LoadOptions { quantize, ..LoadOptions::default() };
    (sources, Loading::new(model, options).unwrap())
}

/// Logits of all of a few tokens.
fn logits(path: &Path, quantize: Option<DType>) -> Vec<f32> {
    let options = LoadOptions { n_ctx: Some(32), quantize, ..LoadOptions::default() };
    let mut engine = block_on(load(path, BackendOptions::Cpu(CpuMode::Fast), options)).unwrap();
    block_on(engine.forward(&[1, 5, 77, 300, 2, 9], true, &NoPause)).unwrap()
}

fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let format = quant::format(dtype);
    let mut values = vec![0.0; bytes.len() / format.block_bytes * format.block_len];
    (format.dequant)(bytes, &mut values);
    values
}

#[test]
fn a_quantised_file_holds_what_loading_computes_with() {
    for (name, dtypes) in [
        ("smollm2/model.gguf", vec![DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::F16]),
        ("mistral_v01/model.gguf", vec![DType::Q5_1, DType::IQ4_NL]),
        ("llama31/model.gguf", vec![DType::Q4_K, DType::MXFP4, DType::BF16]),
        ("llama_variants/model.gguf", vec![DType::Q2_K, DType::Q8_0]),
    ] {
        for dtype in dtypes {
            let from = golden(name);
            let to = temp(&format!("{}-{dtype:?}", name.replace('/', "-")));
            let recipe = Recipe::new(dtype).unwrap();
            let done = block_on(quantize(&from, &to, recipe)).unwrap();
            assert_eq!(std::fs::metadata(&to).unwrap().len(), done.file_bytes);
            let (sources, at_load) = loading(&from, Some(dtype));
            let (new_sources, from_file) = loading(&to, None);
            let streamed = given(at_load.weights(), &sources, 4096);
            let written = given(from_file.weights(), &new_sources, 1 << 20);
            let mut n_changed = 0;
            for index in 0..streamed.len() {
                let what = &at_load.weights().weight(index).name;
                let (a, b) = (at_load.weights().dtype(index), from_file.weights().dtype(index));
                n_changed += usize::from(a != at_load.weights().weight(index).dtype);
                if a == b {
                    assert!(streamed[index] == written[index], "{name} as {dtype:?}: {what} differs");
                } else {
                    // Vectors of a file are F32, whatever they were.
                    assert_eq!(b, DType::F32, "{what}");
                    assert_eq!(floats(a, &streamed[index]), floats(b, &written[index]), "{what}");
                }
            }
            assert!(n_changed >= 15, "{n_changed} weights in another format");
            assert_eq!(logits(&from, Some(dtype)), logits(&to, None), "{name} as {dtype:?}");
            // The rest of the header is as it was.
            let (_, before) = block_on(open(&from)).unwrap();
            let (_, after) = block_on(open(&to)).unwrap();
            for (key, value) in before.metadata.iter().filter(|(key, _)| *key != "general.file_type") {
                assert_eq!(after.metadata.get(key), Some(value), "{key}");
            }
        }
    }
}

#[test]
fn a_folder_is_quantised_as_it_loads_and_not_into_a_file() {
    let (folder, file) = (golden("hf/smollm2"), golden("smollm2/model.gguf"));
    let (found, expected) = (logits(&folder, Some(DType::Q8_0)), logits(&file, Some(DType::Q8_0)));
    // The same weights with the rows of queries and keys in another order.
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-3, "{worst}");
    let error = block_on(quantize(&folder, &temp("folder"), Recipe::new(DType::Q8_0).unwrap())).unwrap_err();
    assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("model")));
}

#[test]
fn eight_bits_change_little_and_four_bits_more() {
    let from = golden("smollm2/model.gguf");
    let exact = logits(&from, None);
    let distance = |dtype| {
        let found = logits(&from, Some(dtype));
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
        let error = square(&mut found.iter().zip(&exact).map(|(a, b)| a - b));
        (error / square(&mut exact.iter().copied())).sqrt()
    };
    let (eight, four) = (distance(DType::Q8_0), distance(DType::Q4_0));
    assert!(eight < 0.05 && four < 0.5 && eight < four / 4.0, "{eight} and {four}");
}

#[test]
fn quantised_weights_change_only_when_asked_to() {
    let from = golden("llama31_q8_0/model.gguf");
    let to = temp("kept");
    let mut recipe = Recipe::new(DType::Q4_K).unwrap();
    let kept = block_on(quantize(&from, &to, recipe.clone())).unwrap();
    assert!(!kept.formats.contains_key("q4_k") && kept.formats.contains_key("q8_0"), "{:?}", kept.formats);
    recipe.requantize = true;
    let changed = block_on(quantize(&from, &to, recipe.clone())).unwrap();
    assert!(changed.formats["q4_k"] == 8 && changed.formats["q6_k"] == 1, "{:?}", changed.formats);
    recipe.pure = true;
    let pure = block_on(quantize(&from, &to, recipe.clone())).unwrap();
    assert!(!pure.formats.contains_key("q6_k"), "{:?}", pure.formats);
    assert!(pure.file_bytes < changed.file_bytes && changed.file_bytes < kept.file_bytes);
    let onto_itself = block_on(quantize(&to, &to, recipe)).unwrap_err();
    assert_eq!(onto_itself.code(), ErrorCode::InvalidRequest);
}

#[test]
fn tensors_take_the_format_that_suits_them() {
    let mut recipe = Recipe::new(DType::Q4_K).unwrap();
    let target =
        |recipe: &Recipe, name: &str, dims: &[u64], from, head| recipe.target(name, dims, from, head);
    let q = "blk.0.attn_q.weight";
    assert_eq!(target(&recipe, q, &[512, 8], DType::F16, false), DType::Q4_K);
    assert_eq!(target(&recipe, q, &[512, 8, 4], DType::BF16, false), DType::Q4_K);
    assert_eq!(target(&recipe, q, &[96, 8], DType::F16, false), DType::Q5_0);
    assert_eq!(target(&recipe, q, &[90, 8], DType::F16, false), DType::F16);
    assert_eq!(target(&recipe, q, &[512, 8], DType::Q8_0, false), DType::Q8_0);
    assert_eq!(target(&recipe, "output.weight", &[512, 8], DType::F32, true), DType::Q6_K);
    assert_eq!(target(&recipe, "output.weight", &[96, 8], DType::F32, true), DType::Q8_0);
    for name in
        ["blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight", "position_embd.weight", "blk.0.ssm_conv1d.weight"]
    {
        assert_eq!(target(&recipe, name, &[512, 8], DType::F16, false), DType::F16, "{name}");
    }
    assert_eq!(target(&recipe, "blk.0.attn_norm.weight", &[512], DType::BF16, false), DType::BF16);
    recipe.for_gguf = true;
    assert_eq!(target(&recipe, "blk.0.attn_norm.weight", &[512], DType::BF16, false), DType::F32);
    assert_eq!(target(&recipe, "x.weight", &[90, 2], DType::F8_E4M3, false), DType::F16);
    for format in FORMATS.iter().filter(|format| format.quantize.is_none()) {
        let refused = Recipe::new(format.dtype).unwrap_err();
        assert_eq!((refused.code(), refused.field()), (ErrorCode::InvalidRequest, Some("quantize")));
    }
    assert!(Recipe::named("q9_z").is_err());
}

/// Importance of the columns of every matrix of a model, as sums over two inputs, in both forms of file.
fn importance_files(path: &Path) -> [Vec<u8>; 2] {
    let (_, model) = block_on(open(path)).unwrap();
    let mut writer = Writer::default();
    writer.set("general.type", Kv::Str("imatrix".into()));
    let mut binary = Vec::new();
    let mut n_entries = 0i32;
    for tensor in model.tensors.iter().filter(|tensor| tensor.dims.len() == 2) {
        let sums: Vec<f32> = (0..tensor.dims[0]).map(|i| if i % 7 == 0 { 64.0 } else { 0.125 }).collect();
        writer.tensors.push(Tensor::f32(&format!("{}.in_sum2", tensor.name), &[tensor.dims[0]], &sums));
        writer.tensors.push(Tensor::f32(&format!("{}.counts", tensor.name), &[1], &[2.0]));
        binary.extend((tensor.name.len() as i32).to_le_bytes());
        binary.extend(tensor.name.as_bytes());
        binary.extend(2i32.to_le_bytes());
        binary.extend((sums.len() as i32).to_le_bytes());
        binary.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        n_entries += 1;
    }
    [writer.file(), [n_entries.to_le_bytes().to_vec(), binary].concat()]
}

#[test]
fn importance_moves_errors_to_columns_that_matter_less() {
    let from = golden("smollm2/model.gguf");
    let files = importance_files(&from);
    let parsed = files.each_ref().map(|file| Imatrix::parse(file).unwrap());
    assert_eq!(parsed[0], parsed[1]);
    assert_eq!(parsed[0].columns("blk.0.attn_q.weight").unwrap()[..2], [32.0, 0.0625]);
    let (plain, weighted) = (temp("plain"), temp("weighted"));
    let mut recipe = Recipe::new(DType::Q4_0).unwrap();
    block_on(quantize(&from, &plain, recipe.clone())).unwrap();
    recipe.importance = Some(parsed[0].clone());
    let done = block_on(quantize(&from, &weighted, recipe)).unwrap();
    assert_eq!(done.without_importance, Vec::<String>::new());
    // Error of the columns that matter, over all matrices.
    let values = |path: &Path| {
        let (sources, loading) = loading(path, None);
        let map = loading.weights();
        let all = given(map, &sources, 1 << 20);
        let matrices = (0..map.len()).filter(|index| {
            map.weight(*index).dims.len() == 2 && quant::format(map.dtype(*index)).packing != Packing::Nibbles
        });
        matrices
            .flat_map(|index| {
                let n_cols = map.weight(index).dims[0] as usize;
                let values = floats(map.dtype(index), &all[index]);
                values.into_iter().enumerate().filter(move |(at, _)| (at % n_cols).is_multiple_of(7))
            })
            .map(|(_, value)| value)
            .collect::<Vec<f32>>()
    };
    let exact = values(&from);
    let error = |path: &Path| -> f32 {
        values(path).iter().zip(&exact).map(|(found, exact)| (found - exact) * (found - exact)).sum()
    };
    let (plain, weighted) = (error(&plain), error(&weighted));
    assert!(weighted < 0.8 * plain, "{weighted} and {plain}");
}

#[test]
fn importance_of_another_model_is_refused() {
    let from = golden("smollm2/model.gguf");
    let mut recipe = Recipe::new(DType::Q4_0).unwrap();
    recipe.importance = Some(Imatrix::parse(&importance_files(&golden("llama31/model.gguf"))[0]).unwrap());
    let error = block_on(quantize(&from, &temp("foreign"), recipe)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongShape);
    let model = std::fs::read(from).unwrap();
    assert_eq!(Imatrix::parse(&model).unwrap_err().code(), ErrorCode::NotAModel);
    let mut file = Writer::default();
    file.set("general.type", Kv::Str("imatrix".into()));
    file.tensors.push(Tensor::f32("a.in_sum2", &[3], &[1.0; 3]));
    assert_eq!(Imatrix::parse(&file.file()).unwrap_err().code(), ErrorCode::MissingTensor);
    file.tensors.push(Tensor::f32("a.counts", &[2], &[1.0; 2]));
    assert_eq!(Imatrix::parse(&file.file()).unwrap_err().code(), ErrorCode::WrongShape);
}
