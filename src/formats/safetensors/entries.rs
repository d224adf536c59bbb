//! The JSON of a safetensors header. Principal function: [`header`]. Must not know what tensors are for.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::{Dtype, Header, MAX_DIMS, MAX_TENSORS, TensorInfo};
use crate::error::{Error, ErrorCode, Result};

/// One tensor as the JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// All entries in their order; repeated names are kept, to be refused by name.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, Entry)>,
    metadata: Vec<(String, String)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let pairs: std::collections::BTreeMap<String, String> = map.next_value()?;
                        entries.metadata = pairs.into_iter().collect();
                        continue;
                    }
                    if entries.tensors.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    let entry = map
                        .next_value()
                        .map_err(|error| de::Error::custom(format_args!("{name}: {error}")))?;
                    entries.tensors.push((name, entry));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Reads the JSON of a header whose data section starts at `data_start`.
pub(super) fn header(json: &[u8], data_start: u64, file_len: Option<u64>) -> Result<Header> {
    let entries: Entries = serde_json::from_slice(json).map_err(|error| {
        let message = format!("the header is not as the format says: {error}");
        Error::new(ErrorCode::Malformed, message).at("header").caused_by(error)
    })?;
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for (name, entry) in &entries.tensors {
        if !names.insert(name.as_str()) {
            return Err(Error::new(ErrorCode::Malformed, "the tensor is there twice").at(name));
        }
        tensors.push(tensor(name, entry, data_start).map_err(|error| error.at(name))?);
    }
    tensors.sort_unstable_by_key(|tensor| (tensor.offset, tensor.n_bytes));
    let data_end = check_places(&tensors, data_start, file_len)?;
    Ok(Header { tensors, metadata: entries.metadata, data_end })
}

fn tensor(name: &str, entry: &Entry, data_start: u64) -> Result<TensorInfo> {
    let Some(dtype) = Dtype::of_name(&entry.dtype) else {
        let message = format!("is stored as {:?}, which is not supported", entry.dtype);
        return Err(Error::new(ErrorCode::UnsupportedType, message));
    };
    let malformed = |message: String| Err(Error::new(ErrorCode::Malformed, message));
    if entry.shape.len() > MAX_DIMS {
        return malformed(format!("has {} dimensions; at most {MAX_DIMS} are accepted", entry.shape.len()));
    }
    let n_elements = entry.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let Some(n_bytes) = n_elements.and_then(|n| n.checked_mul(dtype.n_bytes())) else {
        return malformed(format!("has the shape {:?}, more bytes than can be counted", entry.shape));
    };
    let [from, to] = entry.data_offsets;
    if from > to {
        return malformed(format!("ends at {to}, before it starts at {from}"));
    }
    if to - from != n_bytes {
        return malformed(format!(
            "has {} bytes, but {:?} elements of {} take {n_bytes}",
            to - from,
            entry.shape,
            dtype.name()
        ));
    }
    let Some(offset) = data_start.checked_add(from).filter(|offset| offset.checked_add(n_bytes).is_some())
    else {
        return malformed("ends beyond 2^64 bytes".to_owned());
    };
    Ok(TensorInfo { name: name.to_owned(), dtype, shape: entry.shape.clone(), offset, n_bytes })
}

/// Tensors must follow each other without holes or overlap, and end within the file. Gives where they end.
fn check_places(tensors: &[TensorInfo], data_start: u64, file_len: Option<u64>) -> Result<u64> {
    let mut end = data_start;
    for tensor in tensors {
        if tensor.offset != end {
            let kind = if tensor.offset < end { "overlaps the tensor before it" } else { "leaves a hole" };
            let message = format!(
                "starts at byte {} of the data section and {kind}, which ends at {}",
                tensor.offset - data_start,
                end - data_start
            );
            return Err(Error::new(ErrorCode::Malformed, message).at(&tensor.name));
        }
        end = tensor.offset + tensor.n_bytes;
        if let Some(file_len) = file_len.filter(|file_len| end > *file_len) {
            let message = format!(
                "ends at byte {end}, but the file has only {file_len}: it was cut short or is damaged"
            );
            return Err(Error::new(ErrorCode::Truncated, message).at(&tensor.name));
        }
    }
    Ok(end)
}
