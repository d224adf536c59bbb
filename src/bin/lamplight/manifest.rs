//! `lamplight manifest`: what a model's files must be, part by part, for pages that load it by its manifest.

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;

use lamplight::engine::native::{self, NativeFolder};
use lamplight::engine::{LoadOptions, Loading, ModelFolder, open_files};
use lamplight::error::{Error, ErrorCode, Result};
use lamplight::weights::{ByteSource, Checkpoint, FileSource, PART_BYTES};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::common::print_json;

/// The form of a manifest; raised when pages of this release could not read a later one.
const SCHEMA: u32 = 1;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GGUF file (any one, of a model in several), or a folder with config.json and safetensors files
    model: PathBuf,
    /// What pages see; the model's own name if not given
    #[arg(long)]
    name: Option<String>,
    /// What tells this release of the model from others; the beginning of a hash over all files if not given
    #[arg(long = "model-version", value_name = "VERSION")]
    version: Option<String>,
    /// The licence; what the file states if not given
    #[arg(long)]
    license: Option<String>,
    /// The oldest release of Lamplight that can run the model; this one if not given
    #[arg(long, value_name = "VERSION")]
    runtime: Option<String>,
    /// Options of createEngine that suit the model, as a JSON object such as {"contextLength":8192}
    #[arg(long, value_name = "JSON")]
    settings: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let settings: Map<String, Value> = match &args.settings {
        None => Map::new(),
        Some(text) => serde_json::from_str(text).map_err(|error| {
            Error::new(ErrorCode::InvalidRequest, format!("--settings is no JSON object: {error}"))
        })?,
    };
    let (inner, which) = native::locate(&args.model)?;
    let folder = Folder { inner, small: RefCell::default() };
    let (files, model) = pollster::block_on(open_files(&folder, which))?;
    let mut entries = Vec::new();
    for (file, data_end) in files.iter().zip(&model.data_ends) {
        entries.push(pollster::block_on(weights_entry(file, *data_end))?);
    }
    entries.append(&mut folder.small.take());
    print_json(&manifest(args, model, entries, settings)?)
}

fn manifest(
    args: &Args,
    model: Checkpoint,
    files: Vec<Value>,
    settings: Map<String, Value>,
) -> Result<Value> {
    let template = model.metadata.str("tokenizer.chat_template")?.map(|text| hex(&Sha256::digest(text)));
    let loading = Loading::new(model, LoadOptions::default())?;
    let summary = loading.summary();
    let mut all = Sha256::new();
    files.iter().filter_map(|file| file["sha256"].as_str()).for_each(|hash| all.update(hash));
    let version = args.version.clone().unwrap_or_else(|| hex(&all.finalize())[..12].to_owned());
    Ok(json!({
        "lamplight": SCHEMA,
        "name": args.name.as_ref().unwrap_or(&summary.name),
        "version": version,
        "architecture": summary.architecture,
        "license": args.license.as_ref().or(summary.license.as_ref()),
        "runtime": args.runtime.as_deref().unwrap_or(env!("CARGO_PKG_VERSION")),
        "chatTemplateSha256": template,
        "partBytes": PART_BYTES,
        "settings": settings,
        "files": files,
    }))
}

/// A file of weights: its parts as pages store them, and the whole of it.
async fn weights_entry(file: &Named, data_end: u64) -> Result<Value> {
    let size = file.source.size().unwrap_or(data_end);
    let (mut whole, mut parts) = (Sha256::new(), Vec::new());
    let mut start = 0;
    while start < data_end {
        let end = data_end.min(start + PART_BYTES);
        let bytes = file.source.read(start..end).await?;
        whole.update(&bytes);
        parts.push(hex(&Sha256::digest(&bytes)));
        start = end;
    }
    // What follows the last tensor is of no use, but of the file.
    while start < size {
        let end = size.min(start + PART_BYTES);
        whole.update(file.source.read(start..end).await?);
        start = end;
    }
    let sha256 = hex(&whole.finalize());
    Ok(json!({ "name": file.name, "bytes": size, "dataEnd": data_end, "sha256": sha256, "parts": parts }))
}

/// The folder that a model is in; notes what the small files that belong to it must be.
struct Folder {
    inner: NativeFolder,
    small: RefCell<Vec<Value>>,
}

/// A file with its name.
struct Named {
    name: String,
    source: FileSource,
}

impl ByteSource for Named {
    fn size(&self) -> Option<u64> {
        self.source.size()
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.source.read(range).await
    }
}

impl ModelFolder for Folder {
    type File = Named;

    async fn list(&self) -> Result<Option<Vec<String>>> {
        // Only what is read is part of the model.
        Ok(None)
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let found = self.inner.read(name).await?;
        if let Some(bytes) = &found {
            let sha256 = hex(&Sha256::digest(bytes));
            self.small.borrow_mut().push(json!({ "name": name, "bytes": bytes.len(), "sha256": sha256 }));
        }
        Ok(found)
    }

    async fn open(&self, name: &str) -> Result<Named> {
        Ok(Named { name: name.to_owned(), source: self.inner.open(name).await? })
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
