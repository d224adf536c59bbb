//! `model.safetensors.index.json`: which shard holds which tensor. Principal function: [`parse_index`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::MAX_TENSORS;
use crate::error::{Error, ErrorCode, Result};

/// Most files of a model.
const MAX_SHARDS: usize = 4096;

/// The files of a sharded model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    /// File of each tensor.
    pub weight_map: BTreeMap<String, String>,
    /// All files, each once, by name.
    pub shards: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads an index.
/// # Errors
/// `Malformed`, `LimitExceeded`, `InvalidValue` for a shard that is not a file's name in the same folder.
pub fn parse_index(json: &[u8]) -> Result<ShardIndex> {
    let at = |code, message: String| Error::new(code, message).at("model.safetensors.index.json");
    let Index { weight_map } = serde_json::from_slice(json)
        .map_err(|error| at(ErrorCode::Malformed, format!("is not as the format says: {error}")))?;
    // Not collected: that would sort first, which takes a page code for each kind of set.
    let mut shards: BTreeSet<&String> = BTreeSet::new();
    shards.extend(weight_map.values());
    if weight_map.len() > MAX_TENSORS || shards.len() > MAX_SHARDS {
        let message = format!("{} tensors in {} files", weight_map.len(), shards.len());
        return Err(at(ErrorCode::LimitExceeded, message));
    }
    if shards.is_empty() {
        return Err(at(ErrorCode::Malformed, "names no files".to_owned()));
    }
    // A name that leads elsewhere would read what is not the model's.
    let odd = |name: &&&String| {
        name.contains(['/', '\\', '?', '#', '%', ':', '\0'])
            || name.starts_with('.')
            || !name.ends_with(".safetensors")
    };
    if let Some(name) = shards.iter().find(odd) {
        return Err(at(ErrorCode::InvalidValue, format!("{name:?} is not the name of a safetensors file")));
    }
    let shards = shards.into_iter().cloned().collect();
    Ok(ShardIndex { weight_map, shards })
}
