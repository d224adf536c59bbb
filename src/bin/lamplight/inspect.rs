//! `lamplight inspect`: what a model file is, and whether it can be run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lamplight::engine::{LoadOptions, Loading, ModelSummary, native};
use lamplight::error::Result;
use lamplight::formats::Value as MetaValue;
use lamplight::quant;
use lamplight::weights::Checkpoint;
use serde_json::{Map, Value, json};

use super::common::{describe, print, print_json};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GGUF file, or a folder with config.json and safetensors files
    model: PathBuf,
    /// List every tensor, too
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object (with all tensors)
    #[arg(long)]
    json: bool,
}

/// Arrays longer than this are shown by their length.
const LONG_ARRAY: usize = 16;

pub(crate) fn run(args: &Args) -> Result<()> {
    let (_, model) = pollster::block_on(native::open(&args.model))?;
    // What cannot be run can still be looked at.
    let loading = Loading::new(model.clone(), LoadOptions::default());
    let supported = loading.map(|loading| loading.summary().clone()).map_err(|error| describe(&error));
    match args.json {
        true => print_json(&report(&model, &supported)),
        false => print(&text(&model, &supported, args.tensors)),
    }
}

fn report(model: &Checkpoint, supported: &Result<ModelSummary, String>) -> Value {
    let metadata: Map<String, Value> =
        model.metadata.iter().map(|(key, value)| (key.to_owned(), meta_json(value))).collect();
    let tensors: Vec<Value> = model
        .tensors
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "format": quant::format(tensor.dtype).name,
                "dims": tensor.dims,
                "bytes": tensor.n_bytes(),
            })
        })
        .collect();
    json!({
        "container": model.container,
        "supported": supported.is_ok(),
        "reason": supported.as_ref().err(),
        "model": supported.as_ref().ok(),
        "metadata": metadata,
        "tensors": tensors,
    })
}

fn meta_json(value: &MetaValue) -> Value {
    match value {
        MetaValue::Uint(value) => json!(value),
        MetaValue::Int(value) => json!(value),
        MetaValue::Float(value) => json!(value),
        MetaValue::Bool(value) => json!(value),
        MetaValue::String(value) => json!(value),
        MetaValue::Uints(values) => array(values.len(), || json!(values)),
        MetaValue::Ints(values) => array(values.len(), || json!(values)),
        MetaValue::Floats(values) => array(values.len(), || json!(values)),
        MetaValue::Bools(values) => array(values.len(), || json!(values)),
        MetaValue::Strings(values) => array(values.len(), || {
            values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect()
        }),
    }
}

/// A short array whole, a long one by its length.
fn array(len: usize, whole: impl FnOnce() -> Value) -> Value {
    match len <= LONG_ARRAY {
        true => whole(),
        false => json!({ "length": len }),
    }
}

fn text(model: &Checkpoint, supported: &Result<ModelSummary, String>, tensors: bool) -> String {
    let mut lines = Vec::new();
    match supported {
        Ok(summary) => lines.extend(summary_lines(summary)),
        Err(reason) => lines.push(format!("{:22} no: {reason}", "can be run")),
    }
    lines.push(format!("{:22} {}, {} tensors", "file", model.container, model.tensors.len()));
    lines.push(format!("\n{:22}", "metadata"));
    for (key, value) in model.metadata.iter() {
        lines.push(format!("  {key:42} {}", shortened(&meta_json(value).to_string())));
    }
    if tensors {
        lines.push(format!("\n{:22}", "tensors"));
        for tensor in &model.tensors {
            let format = quant::format(tensor.dtype).name;
            lines.push(format!("  {:42} {format:5} {:?}", tensor.name, tensor.dims));
        }
    }
    lines.join("\n") + "\n"
}

fn summary_lines(summary: &ModelSummary) -> Vec<String> {
    let formats: BTreeMap<_, _> = summary.formats.iter().collect();
    let formats: Vec<String> =
        formats.iter().map(|(name, bytes)| format!("{name} {}", megabytes(**bytes))).collect();
    let yes_no = |yes| if yes { "yes" } else { "no" };
    [
        ("name", summary.name.clone()),
        ("can be run", "yes".to_owned()),
        ("architecture", summary.architecture.clone()),
        ("parameters", format!("{:.1} million", summary.n_params as f64 / 1e6)),
        ("size", megabytes(summary.file_bytes)),
        ("formats", formats.join(", ")),
        ("layers", summary.n_layers.to_string()),
        ("width", summary.n_embd.to_string()),
        ("vocabulary", summary.n_vocab.to_string()),
        ("trained context", summary.context_length_trained.to_string()),
        ("chat template", yes_no(summary.has_chat_template).to_owned()),
    ]
    .map(|(name, value)| format!("{name:22} {value}"))
    .to_vec()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The beginning of a long line.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
