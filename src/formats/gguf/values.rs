//! The key/value section of a GGUF header. Principal function: [`metadata`]. Must not know what the keys mean.

use super::reader::{Field, Reader, Stop};
use super::{MAX_ARRAY_LEN, MAX_KEY_BYTES, MAX_STRING_BYTES};
use crate::error::{Error, ErrorCode};
use crate::formats::{Metadata, StringArray, Value};

/// The value types of the format, by their numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    const ALL: [Type; 13] = [
        Type::U8,
        Type::I8,
        Type::U16,
        Type::I16,
        Type::U32,
        Type::I32,
        Type::F32,
        Type::Bool,
        Type::String,
        Type::Array,
        Type::U64,
        Type::I64,
        Type::F64,
    ];

    /// Bytes of one value; for strings and arrays the least there can be.
    fn width(self) -> u64 {
        match self {
            Type::U8 | Type::I8 | Type::Bool => 1,
            Type::U16 | Type::I16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 | Type::String => 8,
            Type::Array => 12,
        }
    }
}

/// Reads `n_keys` keys and their values.
pub(super) fn metadata(reader: &mut Reader<'_>, n_keys: u64) -> Result<Metadata, Stop> {
    let mut metadata = Metadata::default();
    for index in 0..n_keys {
        reader.at(Field::KeyName(index));
        let key = reader.text(MAX_KEY_BYTES)?;
        if key.is_empty() {
            return reader.fail(ErrorCode::Malformed, "the key is empty");
        }
        reader.at(Field::Value(key));
        let value = value(reader, key)?;
        if metadata.insert(key.to_owned(), value).is_err() {
            reader.at(Field::Value(key));
            return reader.fail(ErrorCode::Malformed, "the key is there twice");
        }
    }
    Ok(metadata)
}

fn value_type(reader: &mut Reader<'_>) -> Result<Type, Stop> {
    let number = reader.u32()?;
    match usize::try_from(number).ok().and_then(|number| Type::ALL.get(number)) {
        Some(found) => Ok(*found),
        None => reader.fail(ErrorCode::Malformed, format!("value type {number} does not exist")),
    }
}

fn value<'a>(reader: &mut Reader<'a>, key: &'a str) -> Result<Value, Stop> {
    Ok(match value_type(reader)? {
        Type::String => Value::String(reader.text(MAX_STRING_BYTES)?.to_owned()),
        Type::Array => return array(reader, key),
        Type::Bool => match reader.array()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return not_a_bool(reader, other),
        },
        Type::U8 => Value::Uint(u8::from_le_bytes(reader.array()?).into()),
        Type::U16 => Value::Uint(u16::from_le_bytes(reader.array()?).into()),
        Type::U32 => Value::Uint(reader.u32()?.into()),
        Type::U64 => Value::Uint(reader.u64()?),
        Type::I8 => Value::Int(i8::from_le_bytes(reader.array()?).into()),
        Type::I16 => Value::Int(i16::from_le_bytes(reader.array()?).into()),
        Type::I32 => Value::Int(i32::from_le_bytes(reader.array()?).into()),
        Type::I64 => Value::Int(i64::from_le_bytes(reader.array()?)),
        Type::F32 => Value::Float(f32::from_le_bytes(reader.array()?).into()),
        Type::F64 => Value::Float(f64::from_le_bytes(reader.array()?)),
    })
}

fn not_a_bool<T>(reader: &Reader<'_>, byte: u8) -> Result<T, Stop> {
    reader.fail(ErrorCode::InvalidValue, format!("a bool is stored as 0 or 1, not as {byte}"))
}

fn array<'a>(reader: &mut Reader<'a>, key: &'a str) -> Result<Value, Stop> {
    let element = value_type(reader)?;
    if element == Type::Array {
        return reader.fail(ErrorCode::Malformed, "arrays of arrays are not used by any model, and refused");
    }
    let len = reader.u64()?;
    if len > MAX_ARRAY_LEN {
        let message = format!("an array of {len} elements; at most {MAX_ARRAY_LEN} are accepted");
        return reader.fail(ErrorCode::LimitExceeded, message);
    }
    // Cannot overflow: both factors are small. All of it must be there before anything is allocated for it.
    let n_bytes = len * element.width();
    reader.need(n_bytes)?;
    if element == Type::String {
        return strings(reader, key, len);
    }
    let bytes = reader.take(n_bytes)?;
    Ok(match element {
        Type::U8 => Value::Uints(numbers(bytes, |x| u8::from_le_bytes(x).into())?),
        Type::U16 => Value::Uints(numbers(bytes, |x| u16::from_le_bytes(x).into())?),
        Type::U32 => Value::Uints(numbers(bytes, |x| u32::from_le_bytes(x).into())?),
        Type::U64 => Value::Uints(numbers(bytes, u64::from_le_bytes)?),
        Type::I8 => Value::Ints(numbers(bytes, |x| i8::from_le_bytes(x).into())?),
        Type::I16 => Value::Ints(numbers(bytes, |x| i16::from_le_bytes(x).into())?),
        Type::I32 => Value::Ints(numbers(bytes, |x| i32::from_le_bytes(x).into())?),
        Type::I64 => Value::Ints(numbers(bytes, i64::from_le_bytes)?),
        Type::F32 => Value::Floats(numbers(bytes, f32::from_le_bytes)?),
        Type::F64 => Value::Floats(numbers(bytes, |x| f64::from_le_bytes(x) as f32)?),
        Type::Bool => match bytes.iter().position(|byte| *byte > 1) {
            Some(index) => {
                reader.at(Field::Item(key, index as u64));
                return not_a_bool(reader, bytes[index]);
            }
            None => Value::Bools(numbers(bytes, |[x]| x == 1)?),
        },
        Type::String | Type::Array => unreachable!("invariant: handled above"),
    })
}

/// Converts little-endian numbers of `N` bytes; `bytes` is a whole number of them.
fn numbers<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Stop> {
    let (chunks, _) = bytes.as_chunks::<N>();
    let mut values = Vec::new();
    values.try_reserve_exact(chunks.len()).map_err(out_of_memory)?;
    values.extend(chunks.iter().map(|chunk| convert(*chunk)));
    Ok(values)
}

fn strings<'a>(reader: &mut Reader<'a>, key: &'a str, len: u64) -> Result<Value, Stop> {
    let mut strings = StringArray::default();
    strings.try_reserve(len as usize).map_err(out_of_memory)?;
    for index in 0..len {
        reader.at(Field::Item(key, index));
        let string = reader.string(MAX_STRING_BYTES)?;
        if !strings.push(string) {
            return reader.fail(ErrorCode::LimitExceeded, "the strings of the array exceed 4 GiB");
        }
    }
    Ok(Value::Strings(strings))
}

fn out_of_memory(error: std::collections::TryReserveError) -> Stop {
    Error::new(ErrorCode::OutOfMemory, "no memory for the file's metadata").caused_by(error).into()
}
