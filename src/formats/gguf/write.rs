//! Writing GGUF headers (version 3).
//!
//! Principal function: [`header`]. Must not know models, nor write tensors' bytes.

use super::DEFAULT_ALIGNMENT;
use crate::formats::{Metadata, Value};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// ggml's number of its format.
    pub ggml_type: u32,
    /// Dimensions, the contiguous one first.
    pub dims: Vec<u64>,
    /// Bytes of its data.
    pub n_bytes: u64,
}

/// Everything before the data, and where each tensor's data stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct NewHeader {
    /// The first bytes of the file, padded to where the data begins.
    pub bytes: Vec<u8>,
    /// Of each tensor, its place in the file. Between tensors stand zeros.
    pub offsets: Vec<u64>,
    /// Length of the file.
    pub file_len: u64,
}

/// The header of a file with this metadata and these tensors, in this order. Numbers get the narrowest of the types that
/// readers expect: 32 bits where they fit. The alignment is the default; a key that says otherwise is left out.
pub fn header(metadata: &Metadata, tensors: &[NewTensor]) -> NewHeader {
    let values: Vec<_> = metadata.iter().filter(|(key, _)| *key != "general.alignment").collect();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    for (key, value) in values {
        string(&mut bytes, key.as_bytes());
        write_value(&mut bytes, key, value);
    }
    let mut offset = 0u64;
    let mut offsets = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        string(&mut bytes, tensor.name.as_bytes());
        bytes.extend((tensor.dims.len() as u32).to_le_bytes());
        bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
        bytes.extend(tensor.ggml_type.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offsets.push(offset);
        offset = (offset + tensor.n_bytes).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    let start = bytes.len() as u64;
    offsets.iter_mut().for_each(|offset| *offset += start);
    NewHeader { bytes, offsets, file_len: start + offset }
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
}

/// The numbers of the format's value types.
mod number {
    pub(super) const U8: u32 = 0;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// Type and value.
fn write_value(bytes: &mut Vec<u8>, key: &str, value: &Value) {
    let mut scalar = |number: u32, value: &[u8]| {
        bytes.extend(number.to_le_bytes());
        bytes.extend(value);
    };
    match value {
        Value::Uint(value) => match u32::try_from(*value) {
            Ok(value) => scalar(number::U32, &value.to_le_bytes()),
            Err(_) => scalar(number::U64, &value.to_le_bytes()),
        },
        Value::Int(value) => match i32::try_from(*value) {
            Ok(value) => scalar(number::I32, &value.to_le_bytes()),
            Err(_) => scalar(number::I64, &value.to_le_bytes()),
        },
        Value::Float(value) if f64::from(*value as f32) == *value || value.is_nan() => {
            scalar(number::F32, &(*value as f32).to_le_bytes());
        }
        Value::Float(value) => scalar(number::F64, &value.to_le_bytes()),
        Value::Bool(value) => scalar(number::BOOL, &[u8::from(*value)]),
        Value::String(value) => {
            bytes.extend(number::STRING.to_le_bytes());
            string(bytes, value.as_bytes());
        }
        Value::Uints(values) if key == "tokenizer.ggml.precompiled_charsmap" => {
            array(bytes, number::U8, values, |value| [*value as u8]);
        }
        Value::Uints(values) if values.iter().all(|value| u32::try_from(*value).is_ok()) => {
            array(bytes, number::U32, values, |value| (*value as u32).to_le_bytes());
        }
        Value::Uints(values) => array(bytes, number::U64, values, |value| value.to_le_bytes()),
        Value::Ints(values) if values.iter().all(|value| i32::try_from(*value).is_ok()) => {
            array(bytes, number::I32, values, |value| (*value as i32).to_le_bytes());
        }
        Value::Ints(values) => array(bytes, number::I64, values, |value| value.to_le_bytes()),
        Value::Floats(values) => array(bytes, number::F32, values, |value| value.to_le_bytes()),
        Value::Bools(values) => array(bytes, number::BOOL, values, |value| [u8::from(*value)]),
        Value::Strings(values) => {
            array_head(bytes, number::STRING, values.len());
            values.iter().for_each(|value| string(bytes, value));
        }
    }
}

fn array_head(bytes: &mut Vec<u8>, element: u32, len: usize) {
    bytes.extend(number::ARRAY.to_le_bytes());
    bytes.extend(element.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
}

fn array<T, const N: usize>(bytes: &mut Vec<u8>, element: u32, values: &[T], write: impl Fn(&T) -> [u8; N]) {
    array_head(bytes, element, values.len());
    values.iter().for_each(|value| bytes.extend(write(value)));
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, parse};
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn what_is_written_reads_back() {
        let mut metadata = Metadata::default();
        let mut strings = crate::formats::StringArray::default();
        assert!(strings.push(b"a") && strings.push(b"\xff"));
        let values = [
            ("a.small", Value::Uint(7)),
            ("a.large", Value::Uint(1 << 40)),
            ("a.negative", Value::Int(-7)),
            ("a.low", Value::Int(-(1 << 40))),
            ("a.half", Value::Float(0.5)),
            ("a.tenth", Value::Float(0.1)),
            ("a.true", Value::Bool(true)),
            ("a.text", Value::String("grüß".into())),
            ("a.uints", Value::Uints(vec![1, 2])),
            ("a.wide", Value::Uints(vec![1, 1 << 33])),
            ("a.ints", Value::Ints(vec![-1, 2])),
            ("a.floats", Value::Floats(vec![0.25, -1.0])),
            ("a.bools", Value::Bools(vec![true, false])),
            ("a.strings", Value::Strings(strings)),
        ];
        for (key, value) in values {
            metadata.insert(key.to_owned(), value).unwrap();
        }
        let tensor = |name: &str, ggml_type, dims: &[u64], n_bytes| NewTensor {
            name: name.to_owned(),
            ggml_type,
            dims: dims.to_vec(),
            n_bytes,
        };
        let tensors = [tensor("odd", 39, &[32, 1], 17), tensor("plain", 0, &[3], 12)];
        let written = header(&metadata, &tensors);
        let mut file = written.bytes.clone();
        file.resize(written.file_len as usize, 0);
        let Parsed::Header(read) = parse(&file, Some(file.len() as u64)).unwrap() else {
            panic!("the header is whole");
        };
        assert_eq!(read.metadata, metadata);
        let found: Vec<_> = read.tensors.iter().map(|tensor| (tensor.dtype, tensor.offset)).collect();
        assert_eq!(found, [(DType::MXFP4, written.offsets[0]), (DType::F32, written.offsets[1])]);
        assert_eq!(written.file_len % 32, 0);
    }
}
