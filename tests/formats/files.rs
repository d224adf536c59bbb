//! Valid files: what the parser makes of them, whole and in growing prefixes.

use crate::common::gguf_writer::{Kv, Tensor, Writer, tiny_llama};
use lamplight::error::ErrorCode;
use lamplight::formats::Value;
use lamplight::formats::gguf::{GgufHeader, Parsed, parse};
use lamplight::tensor::DType;

fn header(file: &[u8]) -> GgufHeader {
    match parse(file, Some(file.len() as u64)).expect("a valid file") {
        Parsed::Header(header) => *header,
        Parsed::NeedMore(n_bytes) => panic!("asks for {n_bytes} of {}", file.len()),
    }
}

#[test]
fn every_value_type_is_read() {
    let mut writer = Writer { version: 2, ..Writer::default() };
    writer
        .set("u8", Kv::U8(200))
        .set("i8", Kv::I8(-3))
        .set("u16", Kv::U16(40_000))
        .set("i16", Kv::I16(-300))
        .set("u32", Kv::U32(4_000_000_000))
        .set("i32", Kv::I32(-2_000_000_000))
        .set("f32", Kv::F32(0.5))
        .set("bool", Kv::Bool(true))
        .set("string", "höflich")
        .set("u64", Kv::U64(u64::MAX))
        .set("i64", Kv::I64(i64::MIN))
        .set("f64", Kv::F64(1e300))
        .set("u32s", Kv::U32s(vec![1, 2]))
        .set("i32s", Kv::I32s(vec![-1]))
        .set("f32s", Kv::F32s(vec![]))
        .set("bools", Kv::Bools(vec![false, true]))
        .set("strings", Kv::strs(&["a", "", "ccc"]))
        .set("u8s", Kv::Raw(9, [&[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[7, 8]].concat()));
    let header = header(&writer.file());
    assert_eq!(header.version, 2);
    let found: Vec<_> = header.metadata.iter().map(|(key, value)| format!("{key}={}", show(value))).collect();
    assert_eq!(
        found.join(" "),
        "bool=true bools=[false, true] f32=0.5 f32s=[] f64=1e300 i16=-300 i32=-2000000000 i32s=[-1] \
         i64=-9223372036854775808 i8=-3 string=höflich strings=a||ccc u16=40000 u32=4000000000 u32s=[1, 2] \
         u64=18446744073709551615 u8=200 u8s=[7, 8]"
    );
}

fn show(value: &Value) -> String {
    match value {
        Value::Uint(x) => x.to_string(),
        Value::Int(x) => x.to_string(),
        Value::Float(x) => format!("{x:?}"),
        Value::Bool(x) => x.to_string(),
        Value::String(x) => x.clone(),
        Value::Uints(x) => format!("{x:?}"),
        Value::Ints(x) => format!("{x:?}"),
        Value::Floats(x) => format!("{x:?}"),
        Value::Bools(x) => format!("{x:?}"),
        Value::Strings(x) => {
            x.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect::<Vec<_>>().join("|")
        }
    }
}

#[test]
fn tensors_are_placed() {
    let mut writer = Writer { alignment: 64, ..Writer::default() };
    writer.set("general.alignment", Kv::U32(64));
    writer.tensors.push(Tensor::f32("vector", &[3], &[1.0, 2.0, 3.0]));
    writer.tensors.push(Tensor::new("matrix", &[32, 5], 2, vec![0; 5 * 18]));
    writer.tensors.push(Tensor::new("kernel", &[2, 2, 2, 2], 30, vec![0; 32]));
    let mut file = writer.file();
    let header = header(&file);
    let start = header.data_offset;
    assert_eq!(start, (writer.header().len() as u64).next_multiple_of(64));
    let places: Vec<_> = header
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dtype, t.offset - start, t.n_bytes, t.n_cols(), t.n_rows()))
        .collect();
    assert_eq!(
        places,
        [
            ("vector", DType::F32, 0, 12, 3, 1),
            ("matrix", DType::Q4_0, 64, 90, 32, 5),
            ("kernel", DType::BF16, 192, 32, 2, 8)
        ]
    );
    // The padding of the last tensor may be missing, and other bytes may follow it: neither is ever read.
    file.truncate((header.tensors[2].offset + 32) as usize);
    assert_eq!(self::header(&file), header);
    file.extend(b"trailing");
    assert_eq!(self::header(&file), header);
}

#[test]
fn growing_prefixes_give_the_same_header() {
    let file = tiny_llama().file();
    let whole = header(&file);
    for file_len in [None, Some(file.len() as u64)] {
        let mut most = 0;
        for len in 0..file.len() {
            match parse(&file[..len], file_len).unwrap() {
                Parsed::NeedMore(n_bytes) => {
                    assert!(n_bytes > len as u64, "asks for what is there");
                    assert!(n_bytes <= file.len() as u64, "asks for what is not there");
                    most = most.max(n_bytes);
                }
                Parsed::Header(header) => assert_eq!(*header, whole),
            }
        }
        assert!(most <= whole.data_offset, "the header does not need the tensors");
    }
}

#[test]
fn one_shard_that_is_the_whole_model_is_no_split() {
    let mut writer = tiny_llama();
    let n_tensors = writer.tensors.len() as i32;
    writer
        .set("split.no", Kv::U16(0))
        .set("split.count", Kv::U16(1))
        .set("split.tensors.count", Kv::I32(n_tensors));
    assert_eq!(header(&writer.file()).tensors.len(), n_tensors as usize);
}

#[test]
fn sizes_that_wrap_when_added_up_are_refused_without_the_file_size_too() {
    const HUGE: u64 = i64::MAX as u64 - 1023;
    let mut writer = tiny_llama();
    for (index, tensor) in writer.tensors[..3].iter_mut().enumerate() {
        tensor.dims = vec![HUGE / 4];
        tensor.offset = Some(index as u64 * HUGE);
    }
    let error = parse(&writer.file(), None).unwrap_err();
    assert_eq!((error.code(), error.field()), (ErrorCode::Malformed, Some("tensors[2].offset")), "{error}");
}

/// The golden files as every reader sees them: header at once, whole map, every byte in one piece of one weight.
#[test]
fn golden_files_are_valid() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut n_files = 0;
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path().join("model.gguf");
        if let Ok(file) = std::fs::read(&path) {
            super::table::load(&file, file.len() as u64)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            n_files += 1;
        }
    }
    assert!(n_files >= 12, "only {n_files} golden files");
}
