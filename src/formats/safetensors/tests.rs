//! Headers that are as they should be, and headers that are not.

use super::*;

/// A file with this JSON and `n_data` bytes of data.
fn file(json: &str, n_data: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(file.len() + n_data, 7);
    file
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
    "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   "#;

fn whole(file: &[u8]) -> Header {
    match parse(file, Some(file.len() as u64)) {
        Ok(Parsed::Header(header)) => header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tensors_come_in_the_order_of_the_file() {
    let file = file(TWO, 16);
    let header = whole(&file);
    let names: Vec<_> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let start = 8 + TWO.len() as u64;
    let b = &header.tensors[1];
    assert_eq!((b.dtype, b.shape.as_slice(), b.offset, b.n_bytes), (Dtype::BF16, &[2, 3][..], start + 4, 12));
    assert_eq!(header.data_end, file.len() as u64);
    assert_eq!(header.metadata, [("format".to_owned(), "pt".to_owned())]);
}

#[test]
fn prefixes_ask_for_more_until_the_header_is_whole() {
    let file = file(TWO, 16);
    for len in 0..file.len() {
        match parse(&file[..len], None) {
            Ok(Parsed::NeedMore(n)) => assert!(n > len as u64 && n <= 8 + TWO.len() as u64, "{len}: {n}"),
            Ok(Parsed::Header(header)) => assert_eq!(header, whole(&file)),
            Err(error) => panic!("{len}: {error}"),
        }
    }
}

#[test]
fn offsets_beyond_4_gib_are_kept() {
    let json = r#"{"a":{"dtype":"U8","shape":[5000000000],"data_offsets":[0,5000000000]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[5000000000,5000000008]}}"#;
    let file = file(json, 0);
    let Ok(Parsed::Header(header)) = parse(&file, Some(file.len() as u64 + 5_000_000_008)) else { panic!() };
    assert_eq!(header.tensors[1].offset, file.len() as u64 + 5_000_000_000);
}

#[test]
fn malformed_headers_give_their_errors() {
    use ErrorCode::{LimitExceeded, Malformed, NotAModel, Truncated, UnsupportedType};
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#""t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype, shape, offsets| format!("{{{}}}", entry(dtype, shape, offsets));
    let good = entry("F32", "[1]", "[0,4]");
    let second =
        |offsets: &str| format!(r#"{{{good},"u":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}}}"#);
    let rows: Vec<(&str, String, ErrorCode, &str)> = vec![
        ("no JSON", "{nonsense}".into(), Malformed, "header"),
        ("not an object", "{1:2}".into(), Malformed, "header"),
        ("an array of tensors", r#"{"t":[]}"#.into(), Malformed, "header"),
        (
            "unknown field",
            r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#.into(),
            Malformed,
            "header",
        ),
        ("no offsets", r#"{"t":{"dtype":"F32","shape":[1]}}"#.into(), Malformed, "header"),
        ("negative size", one("F32", "[-1]", "[0,4]"), Malformed, "header"),
        ("fraction", one("F32", "[1.5]", "[0,6]"), Malformed, "header"),
        ("unknown dtype", one("Q4_X", "[1]", "[0,4]"), UnsupportedType, "t"),
        ("nine dimensions", one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), Malformed, "t"),
        ("product overflows", one("F32", "[4294967296,4294967296,2]", "[0,4]"), Malformed, "t"),
        ("bytes overflow", one("F64", "[4611686018427387904]", "[0,0]"), Malformed, "t"),
        ("ends before it starts", one("F32", "[1]", "[8,4]"), Malformed, "t"),
        ("too few bytes", one("F32", "[2]", "[0,4]"), Malformed, "t"),
        ("beyond 2^64", one("U8", "[4]", "[18446744073709551611,18446744073709551615]"), Malformed, "t"),
        ("a hole at the start", one("F32", "[1]", "[4,8]"), Malformed, "t"),
        ("a hole", second("[8,12]"), Malformed, "u"),
        ("overlap", second("[2,6]"), Malformed, "u"),
        ("same place", second("[0,4]"), Malformed, "u"),
        ("beyond the file", second("[4,8]"), Truncated, "u"),
        ("twice", format!("{{{good},{good}}}"), Malformed, "t"),
        ("deep nesting", format!("{{\"t\":{}}}", "[".repeat(100_000)), Malformed, "header"),
        ("metadata of numbers", r#"{"__metadata__":{"a":1}}"#.into(), Malformed, "header"),
    ];
    for (name, json, code, field) in rows {
        let file = file(&json, 4);
        let error = match parse(&file, Some(file.len() as u64)) {
            Err(error) => error,
            Ok(parsed) => panic!("{name}: {parsed:?}"),
        };
        assert_eq!((error.code(), error.field()), (code, Some(field)), "{name}: {error}");
    }
    let raw: Vec<(&[u8], ErrorCode)> = vec![
        (b"", NotAModel),
        (b"\x02\0\0", NotAModel),
        (b"<!DOCTYPE html><html>", NotAModel),
        (b"version https://git-lfs.github.com/spec/v1", NotAModel),
        (b"GGUF\x03\0\0\0\0\0\0\0", NotAModel),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", LimitExceeded),
        (b"\x40\0\0\0\0\0\0\0{}", Truncated),
    ];
    for (bytes, code) in raw {
        let error = parse(bytes, Some(bytes.len() as u64)).expect_err("a bad file");
        assert_eq!(error.code(), code, "{error}");
    }
}

#[test]
fn an_index_names_its_files_and_nothing_else() {
    let index = parse_index(br#"{"metadata":{"total_size":1},"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}}"#).unwrap();
    assert_eq!(index.shards, ["m-1.safetensors", "m-2.safetensors"]);
    for (json, code) in [
        (r#"{"weight_map":{"a":"../x.safetensors"}}"#, ErrorCode::InvalidValue),
        (r#"{"weight_map":{"a":"http://x/y.safetensors"}}"#, ErrorCode::InvalidValue),
        (r#"{"weight_map":{"a":".safetensors"}}"#, ErrorCode::InvalidValue),
        (r#"{"weight_map":{"a":"config.json"}}"#, ErrorCode::InvalidValue),
        (r#"{"weight_map":{}}"#, ErrorCode::Malformed),
        (r#"{"weight_map":[]}"#, ErrorCode::Malformed),
        ("", ErrorCode::Malformed),
    ] {
        assert_eq!(parse_index(json.as_bytes()).expect_err("a bad index").code(), code, "{json}");
    }
}
