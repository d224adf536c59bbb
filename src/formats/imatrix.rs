//! Importance matrices: how large the inputs of each matrix's columns are, measured by others, for quantisers.
//!
//! Principal type: [`Imatrix`]. Reads llama.cpp's files, the GGUF ones (`general.type` is `imatrix`) and the older binary
//! ones. Must not know how the numbers are used.

use std::collections::BTreeMap;

use super::gguf::{self, Parsed};
use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{DType, TensorDesc};

/// For each tensor by its name, the mean squared input of every column; for stacked matrices one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    columns: BTreeMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a file.
    /// # Errors
    /// `NotAModel` when it is neither kind of file, `Truncated`, `Malformed`, `InvalidValue` and what
    /// [`gguf::parse`] says.
    pub fn parse(bytes: &[u8]) -> Result<Imatrix> {
        match bytes.starts_with(b"GGUF") {
            true => from_gguf(bytes),
            false => from_binary(&mut Reader { bytes, at: 0 }),
        }
    }

    /// The numbers of a tensor.
    pub fn columns(&self, tensor: &str) -> Option<&[f32]> {
        self.columns.get(tensor).map(Vec::as_slice)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    fn insert(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        if !values.iter().all(|value| value.is_finite() && *value >= 0.0) {
            let message = "holds numbers that are no mean squares: the file is damaged";
            return Err(Error::new(ErrorCode::InvalidValue, message).at(name));
        }
        self.columns.insert(name.to_owned(), values);
        Ok(())
    }
}

/// Sums of squares in `X.in_sum2`, and in `X.counts` over how many inputs, one number a matrix.
fn from_gguf(bytes: &[u8]) -> Result<Imatrix> {
    let Parsed::Header(header) = gguf::parse(bytes, Some(bytes.len() as u64))? else {
        return Err(Error::new(ErrorCode::Truncated, "the file ends within its header"));
    };
    if header.metadata.str("general.type")? != Some("imatrix") {
        let message = "this GGUF file is no importance matrix";
        return Err(Error::new(ErrorCode::NotAModel, message).at("general.type"));
    }
    let mut matrix = Imatrix::default();
    for sums in &header.tensors {
        let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
        let wanted = format!("{name}.counts");
        let Some(counts) = header.tensors.iter().find(|tensor| tensor.name == wanted) else {
            return Err(Error::new(ErrorCode::MissingTensor, "the file lacks this tensor").at(wanted));
        };
        let (mut values, counts) = (floats(bytes, sums)?, floats(bytes, counts)?);
        if counts.is_empty() || !values.len().is_multiple_of(counts.len()) {
            let message = format!("{} numbers for {} counts", values.len(), counts.len());
            return Err(Error::new(ErrorCode::WrongShape, message).at(name));
        }
        let n_cols = values.len() / counts.len();
        for (values, count) in values.chunks_mut(n_cols).zip(counts) {
            // A matrix that was never used: all columns alike.
            values.iter_mut().for_each(|value| *value = if count > 0.0 { *value / count } else { 1.0 });
        }
        matrix.insert(name, values)?;
    }
    Ok(matrix)
}

fn floats(bytes: &[u8], tensor: &TensorDesc) -> Result<Vec<f32>> {
    let range = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.offset + tensor.n_bytes).ok());
    match range.and_then(|(from, to)| bytes.get(from..to)) {
        _ if tensor.dtype != DType::F32 => {
            Err(Error::new(ErrorCode::UnsupportedType, "is not stored as F32").at(&tensor.name))
        }
        Some(bytes) => Ok(numbers(bytes)),
        None => Err(Error::new(ErrorCode::Truncated, "the file ends within it").at(&tensor.name)),
    }
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The older form, little-endian: i32 number of entries; for each i32 length and bytes of the name, i32 number of calls,
/// i32 number of values, f32 values, which are sums over the calls. What follows are notes.
fn from_binary(reader: &mut Reader<'_>) -> Result<Imatrix> {
    let n_entries = reader.count("the number of entries")?;
    let mut matrix = Imatrix::default();
    for entry in 0..n_entries {
        let n_name = reader.count("the length of a name")?;
        let Ok(name) = std::str::from_utf8(reader.take(n_name)?) else {
            let message = format!("the name of entry {entry} is no text: this is no importance matrix");
            return Err(Error::new(ErrorCode::NotAModel, message));
        };
        let n_calls = reader.count("a number of calls")?;
        let n_values = reader.count("a number of values")?;
        let bytes = reader.take(n_values.saturating_mul(4))?;
        let mut values = numbers(bytes);
        if n_calls > 0 {
            values.iter_mut().for_each(|value| *value /= n_calls as f32);
        }
        matrix.insert(name, values)?;
    }
    match matrix.is_empty() {
        false => Ok(matrix),
        true => Err(Error::new(ErrorCode::NotAModel, "the file holds no importance matrix")),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.saturating_add(n);
        let Some(found) = self.bytes.get(self.at..end) else {
            let message = format!(
                "the file ends at byte {}, {n} more are needed at {}; it is no importance matrix, or cut short",
                self.bytes.len(),
                self.at
            );
            return Err(Error::new(ErrorCode::Truncated, message));
        };
        self.at = end;
        Ok(found)
    }

    fn count(&mut self, what: &str) -> Result<usize> {
        let at = self.at;
        let bytes = self.take(4)?;
        let number = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        usize::try_from(number).map_err(|_| {
            let message = format!("{what} at byte {at} is {number}: this is no importance matrix");
            Error::new(ErrorCode::NotAModel, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary() -> Vec<u8> {
        let mut bytes = 2i32.to_le_bytes().to_vec();
        for (name, n_calls, values) in [("a.weight", 2i32, [2.0f32, 4.0]), ("b.weight", 0, [1.0, 3.0])] {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(n_calls.to_le_bytes());
            bytes.extend(2i32.to_le_bytes());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn the_binary_form_is_read_and_cut_or_wild_files_are_refused() {
        let bytes = binary();
        let matrix = Imatrix::parse(&bytes).unwrap();
        assert_eq!(matrix.columns("a.weight"), Some(&[1.0, 2.0][..]));
        assert_eq!(matrix.columns("b.weight"), Some(&[1.0, 3.0][..]));
        assert_eq!(matrix.columns("c.weight"), None);
        for len in 0..bytes.len() {
            assert!(Imatrix::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        let mut negative = bytes.clone();
        negative[3] = 0x80;
        assert_eq!(Imatrix::parse(&negative).unwrap_err().code(), ErrorCode::NotAModel);
        let mut nan = bytes;
        nan[24..28].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(Imatrix::parse(&nan).unwrap_err().code(), ErrorCode::InvalidValue);
        assert!(Imatrix::parse(&[0; 8]).is_err());
    }
}
