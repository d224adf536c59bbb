//! Tensors of safetensors files as the loader has them, still under the names that the files give them.
//!
//! Principal function: [`stored_tensors`]. Must not know families.

use super::Scheme;
use super::checkpoint::{Extent, StoredTensor, Unit};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::safetensors::{Dtype, Header, TensorInfo};
use crate::quant;

/// The header of one of a model's files.
#[derive(Clone, Debug)]
pub struct ShardHeader {
    /// Its number among the model's files.
    pub file: usize,
    /// What it holds.
    pub header: Header,
}

/// All tensors of `shards`, as `scheme` reads them; integer tensors are left out (positions and masks that some files carry).
/// # Errors
/// What the scheme says; `Malformed` for a name that is there twice, `UnsupportedType` for weights of a float format without kernels.
pub fn stored_tensors(shards: &[ShardHeader], scheme: &Scheme) -> Result<Vec<StoredTensor>> {
    let mut names = std::collections::HashSet::new();
    let (mut tensors, used) = scheme.tensors(shards)?;
    let used: std::collections::HashSet<String> = used.into_iter().collect();
    for shard in shards {
        for tensor in &shard.header.tensors {
            if !names.insert(tensor.name.as_str()) {
                let message = "the tensor is in two files of the model";
                return Err(Error::new(ErrorCode::Malformed, message).at(&tensor.name));
            }
            if !used.contains(&tensor.name) {
                tensors.extend(plain(shard.file, tensor)?);
            }
        }
    }
    Ok(tensors)
}

/// A float tensor as it is.
fn plain(file: usize, tensor: &TensorInfo) -> Result<Option<StoredTensor>> {
    let name = match tensor.dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
            tensor.dtype.name()
        }
        _ => return Ok(None),
    };
    let Some(format) = quant::format_by_name(name) else {
        let message = format!("is stored as {name}, which is not supported; get the model in another format");
        return Err(Error::new(ErrorCode::UnsupportedType, message).at(&tensor.name));
    };
    if tensor.n_bytes == 0 {
        return Ok(None);
    }
    let extent = Extent { file, offset: tensor.offset, n_bytes: tensor.n_bytes };
    let units = vec![Unit::copy(extent)];
    Ok(Some(StoredTensor {
        name: tensor.name.clone(),
        dtype: format.dtype,
        dims: dims(&tensor.shape),
        units,
    }))
}

/// A shape as the loader has it: the contiguous dimension first, and none of 1 (`[1, 1, n]` is a vector).
pub(super) fn dims(shape: &[u64]) -> Vec<u64> {
    let dims: Vec<u64> = shape.iter().rev().copied().filter(|dim| *dim != 1).collect();
    if dims.is_empty() { vec![1] } else { dims }
}
