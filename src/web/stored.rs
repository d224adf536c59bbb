//! What can be done with the models in storage as a whole: list, remove, check, pin, carry elsewhere, make room.
//!
//! Principal functions: those of [`Store`] below. Must not know how a model is loaded.

use js_sys::{Array, Reflect};
use serde::{Deserialize, Serialize};
use serde_wasm_bindgen::preserve;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

use super::protocol::{decode, encode, object};
use super::store::{ModelRecord, PartInfo, Store, read_blob};
use super::task::{describe, navigator, sha256_hex};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::PART_BYTES;

/// A model as the page lists it (`CachedModel` of types.ts).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedModel {
    /// The model's key.
    pub key: String,
    name: String,
    url: String,
    /// Bytes in storage.
    pub bytes_stored: u64,
    bytes_total: u64,
    complete: bool,
    /// Not removed to make room.
    pub pinned: bool,
    clean: bool,
    last_used: f64,
}

impl CachedModel {
    fn of(record: &ModelRecord) -> Self {
        CachedModel {
            key: record.model().to_owned(),
            name: record.name.clone(),
            url: record.url.clone(),
            bytes_stored: 0,
            bytes_total: 0,
            complete: true,
            pinned: false,
            clean: true,
            last_used: 0.0,
        }
    }

    /// Whether it may make way for the model `but`. The release that one would go back to stays.
    pub fn is_removable(&self, but: &str) -> bool {
        let is_release = manifest_of(but).is_some_and(|manifest| manifest_of(&self.key) == Some(manifest));
        !self.pinned && self.key != but && !is_release
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Verified {
    parts: u32,
    bad: u32,
}

/// `WireFile` of `protocol.ts`, as it comes in.
#[derive(Deserialize)]
struct WireFile {
    record: ModelRecord,
    parts: Vec<PartInfo>,
    #[serde(with = "preserve")]
    blobs: JsValue,
}

impl Store {
    /// All models, the last used first.
    /// # Errors
    /// `Storage`.
    pub async fn list(&self) -> Result<Vec<CachedModel>> {
        let mut models: Vec<CachedModel> = Vec::new();
        for record in self.records().await? {
            let parts = self.parts(&record.key).await?;
            let index = models.iter().position(|model| model.key == record.model());
            let index = index.unwrap_or_else(|| {
                models.push(CachedModel::of(&record));
                models.len() - 1
            });
            let model = &mut models[index];
            model.bytes_stored += parts.iter().map(|part| part.len).sum::<u64>();
            model.bytes_total += record.data_end;
            model.complete &= parts.len() as u32 == record.n_parts();
            model.pinned |= record.pinned;
            model.clean &= record.clean;
            model.last_used = model.last_used.max(record.last_used);
        }
        models.sort_unstable_by(|a, b| b.last_used.total_cmp(&a.last_used));
        Ok(models)
    }

    /// The files of the model `key`.
    async fn files_of(&self, key: &str) -> Result<Vec<ModelRecord>> {
        let mut records = self.records().await?;
        records.retain(|record| record.model() == key);
        Ok(records)
    }

    /// The same, where there must be some.
    async fn files_there(&self, key: &str) -> Result<Vec<ModelRecord>> {
        let records = self.files_of(key).await?;
        if records.is_empty() {
            let message = format!("no model of the key {key} is stored in this browser");
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("key"));
        }
        Ok(records)
    }

    /// Removes all files of the model `key`.
    /// # Errors
    /// `Storage`.
    pub async fn delete_model(&self, key: &str) -> Result<()> {
        for record in self.files_of(key).await? {
            self.delete_file(&record.key).await?;
        }
        // Of a file whose record is lost or cannot be read, the parts.
        self.delete_file(key).await
    }

    /// Checks every part of the model `key`, and removes the bad ones: the next load fetches them again.
    /// # Errors
    /// `InvalidRequest` for a model that is not there, `Storage`.
    pub async fn verify(&self, key: &str) -> Result<Verified> {
        let mut verified = Verified::default();
        for record in self.files_there(key).await? {
            for info in self.parts(&record.key).await? {
                verified.parts += 1;
                let good = match self.read_part(&info).await? {
                    Some(part) => sha256_hex(&part.bytes).await == info.sha256,
                    None => false,
                };
                if !good {
                    verified.bad += 1;
                    self.delete_part(&record.key, &info).await?;
                }
            }
        }
        Ok(verified)
    }

    /// Sets whether the model `key` may be removed to make room.
    /// # Errors
    /// `InvalidRequest` for a model that is not there, `Storage`.
    pub async fn pin(&self, key: &str, pinned: bool) -> Result<()> {
        for record in self.files_there(key).await? {
            self.put_record(&ModelRecord { pinned, ..record }).await?;
        }
        Ok(())
    }

    /// The files of the model `key`, as `WireFile[]` of `protocol.ts`.
    /// # Errors
    /// `InvalidRequest` for a model that is not there or not whole, `Storage`.
    pub async fn export(&self, key: &str) -> Result<JsValue> {
        let files = Array::new();
        for record in self.files_there(key).await? {
            let parts = self.parts(&record.key).await?;
            let blobs = Array::new();
            for info in &parts {
                let data = self.read_data(info).await?;
                if !data.is_undefined() {
                    blobs.push(&data);
                }
            }
            if blobs.length() != record.n_parts() {
                let message = format!("{} is not stored whole; load it first", record.key);
                return Err(Error::new(ErrorCode::InvalidRequest, message).at("key"));
            }
            let (record, parts) = (encode(&record), encode(&parts));
            files.push(&object([("record", record), ("parts", parts), ("blobs", blobs.into())]));
        }
        Ok(files.into())
    }

    /// Stores files that [`Store::export`] gave, after a check of all of them.
    /// # Errors
    /// `Integrity` naming the part whose bytes are not those of its hash, `QuotaExceeded`, `Storage`.
    pub async fn import(&self, files: &JsValue) -> Result<()> {
        let files: Vec<WireFile> = decode(Reflect::get(files, &"files".into()).unwrap_or_default())?;
        for WireFile { record, parts, .. } in &files {
            check_parts(record, parts)?;
        }
        // Twice over the bytes, so that nothing of a damaged archive is stored.
        for keep in [false, true] {
            for WireFile { record, parts, blobs } in &files {
                let blobs: &Array = blobs.unchecked_ref();
                for (info, blob) in parts.iter().zip(blobs.iter()) {
                    let bytes = read_blob(blob.unchecked_ref::<Blob>()).await.map_err(|thrown| {
                        let message = format!("the archive cannot be read: {}", describe(&thrown));
                        Error::new(ErrorCode::Io, message)
                    })?;
                    if keep {
                        self.put_part(&record.key, info, &bytes).await?;
                    } else if sha256_hex(&bytes).await != info.sha256 {
                        let message = format!("part {} of {} is damaged", info.index, record.key);
                        return Err(Error::new(ErrorCode::Integrity, message));
                    }
                }
                if keep {
                    // Nobody has compared the whole file here: a load that knows its hash does.
                    self.put_record(&ModelRecord { sha256: None, ..record.clone() }).await?;
                }
            }
        }
        Ok(())
    }

    /// Removes the models used least recently, but neither pinned ones, nor `but` and other releases of it, until `bytes`
    /// are freed. Gives the bytes freed.
    /// # Errors
    /// `Storage`.
    pub async fn evict(&self, bytes: u64, but: &str) -> Result<u64> {
        let mut freed = 0;
        for model in self.list().await?.iter().rev() {
            if freed < bytes && model.is_removable(but) {
                self.delete_model(&model.key).await?;
                freed += model.bytes_stored;
            }
        }
        Ok(freed)
    }
}

/// The parts of an archive must be those of a whole file.
fn check_parts(record: &ModelRecord, parts: &[PartInfo]) -> Result<()> {
    let mut end = 0;
    let in_order = (0..).zip(parts).all(|(index, part)| {
        let start = u64::from(index) * PART_BYTES;
        end = start.saturating_add(part.len);
        part.index == index && part.len == record.data_end.saturating_sub(start).min(PART_BYTES)
    });
    if in_order && end == record.data_end && parts.len() as u32 == record.n_parts() {
        return Ok(());
    }
    let message = format!("the archive does not have {} whole: it is damaged", record.key);
    Err(Error::new(ErrorCode::Malformed, message))
}

/// The manifest that the key `url@version` of a release is of (`manifest.ts`).
fn manifest_of(key: &str) -> Option<&str> {
    let (manifest, version) = key.rsplit_once('@')?;
    (!version.contains('/')).then_some(manifest)
}

/// Bytes that this site may still store, as far as the browser tells. An estimate: a full disk shows when it is full.
pub(super) async fn storage_room() -> Option<f64> {
    let storage: web_sys::StorageManager = navigator("storage").dyn_into().ok()?;
    let estimate = JsFuture::from(storage.estimate().ok()?).await.ok()?;
    let number = |name: &str| Reflect::get(&estimate, &name.into()).ok()?.as_f64();
    Some(number("quota")? - number("usage")?)
}
