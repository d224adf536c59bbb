//! What follows the transformer in an embedding model's folder, in the layout of sentence-transformers: pooling, dense
//! layers, normalisation.
//!
//! Principal function: [`read_pooling`]. It says all that in the keys that GGUF files have for it.

use serde_json::Value as Json;

use super::folder::{ModelFolder, json};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Metadata;
use crate::formats::metadata::Value;
use crate::weights::{Scheme, ShardHeader, StoredTensor, read_safetensors_header, stored_tensors};

const MODULES: &str = "modules.json";
/// More modules than this are a broken file.
const MAX_MODULES: usize = 16;

/// Reads `modules.json`, where there is one, and what it names: keys go to `metadata`, weights of dense layers to
/// `tensors` as `dense_2`, `dense_3` …, their files behind `files`. Gives where the data of each of those ends.
/// # Errors
/// `InvalidValue` for a module that is not known, and what the files say.
pub(super) async fn read_pooling<F: ModelFolder>(
    folder: &F,
    arch: &str,
    metadata: &mut Metadata,
    files: &mut Vec<F::File>,
    tensors: &mut Vec<StoredTensor>,
) -> Result<Vec<u64>> {
    let Some(bytes) = folder.read(MODULES).await? else { return Ok(Vec::new()) };
    let modules = json(MODULES, &bytes)?;
    let modules = modules.as_array().filter(|modules| modules.len() <= MAX_MODULES).ok_or_else(|| {
        Error::new(ErrorCode::Malformed, format!("is no list of at most {MAX_MODULES} modules")).at(MODULES)
    })?;
    let mut ends = Vec::new();
    let mut normalize = false;
    for module in modules {
        let text = |name: &str| module.get(name).and_then(Json::as_str).unwrap_or_default();
        let (kind, path) = (text("type").rsplit('.').next().unwrap_or_default(), text("path"));
        match kind {
            "Transformer" => {}
            "Pooling" => {
                let config = config(folder, path).await?;
                insert(metadata, format!("{arch}.pooling_type"), Value::Uint(pooling(&config, path)?))?;
            }
            "Dense" => {
                let name = format!("dense_{}", ends.len() + 2);
                let config = config(folder, path).await?;
                let n_out = config.get("out_features").and_then(Json::as_u64).unwrap_or(0);
                check_activation(&config, path)?;
                insert(metadata, format!("{arch}.{name}_feat_out"), Value::Uint(n_out))?;
                let source = folder.open(&format!("{path}/model.safetensors")).await?;
                let header = read_safetensors_header(&source).await?;
                ends.push(header.data_end);
                let shard = ShardHeader { file: files.len(), header };
                for mut tensor in stored_tensors(std::slice::from_ref(&shard), &Scheme::None)? {
                    tensor.name = tensor.name.replacen("linear", &name, 1);
                    tensors.push(tensor);
                }
                files.push(source);
            }
            "Normalize" => normalize = true,
            other => {
                let message = format!(
                    "module {other:?} is not supported; supported are Transformer, Pooling, Dense, Normalize"
                );
                return Err(Error::new(ErrorCode::InvalidValue, message).at(MODULES));
            }
        }
    }
    insert(metadata, format!("{arch}.embedding_normalize"), Value::Bool(normalize))?;
    Ok(ends)
}

/// A module's configuration.
async fn config(folder: &impl ModelFolder, path: &str) -> Result<Json> {
    let name = format!("{path}/config.json");
    match folder.read(&name).await? {
        Some(bytes) => json(&name, &bytes),
        None => {
            Err(Error::new(ErrorCode::NotAModel, "modules.json names this file, and it is not there")
                .at(name))
        }
    }
}

/// ggml's number of the pooling that `config` switches on.
fn pooling(config: &Json, path: &str) -> Result<u64> {
    const MODES: &[(&str, u64)] =
        &[("pooling_mode_mean_tokens", 1), ("pooling_mode_cls_token", 2), ("pooling_mode_lasttoken", 3)];
    let on = |name: &&(&str, u64)| config.get(name.0).and_then(Json::as_bool) == Some(true);
    let by_name = match config.get("pooling_mode").and_then(Json::as_str) {
        Some("mean") => Some(1),
        Some("cls") => Some(2),
        Some("lasttoken") => Some(3),
        _ => None,
    };
    let modes: Vec<u64> = MODES.iter().filter(on).map(|(_, number)| *number).chain(by_name).collect();
    match modes.as_slice() {
        [mode] => Ok(*mode),
        _ => {
            let message =
                "must switch on one of mean, first-token and last-token pooling; others are not supported";
            Err(Error::new(ErrorCode::InvalidValue, message).at(format!("{path}/config.json")))
        }
    }
}

/// Dense layers behind a pooling are computed before it, which only linear ones allow.
fn check_activation(config: &Json, path: &str) -> Result<()> {
    let name = config.get("activation_function").and_then(Json::as_str).unwrap_or("Identity");
    match name.ends_with("Identity") {
        true => Ok(()),
        false => {
            let message = format!("a dense layer with the activation {name} is not supported");
            Err(Error::new(ErrorCode::InvalidValue, message).at(format!("{path}/config.json")))
        }
    }
}

fn insert(metadata: &mut Metadata, key: String, value: Value) -> Result<()> {
    metadata
        .insert(key, value)
        .map_err(|key| Error::new(ErrorCode::Malformed, format!("{key} is said twice")).at(MODULES))
}
