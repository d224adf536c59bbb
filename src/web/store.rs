//! Models in IndexedDB: one record per file, its parts by their SHA-256, and where the parts' bytes are by that hash.
//!
//! Principal type: [`Store`]. A part is written in one transaction, so it is there whole or not at all, and a model is
//! complete when all its parts are there: nothing else says so. What two files have in common is stored once. Must not
//! know what the bytes mean; what is done with whole models is in `stored`.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::{Rc, Weak};

use idb::{Database, KeyRange, Query, Transaction, TransactionMode};
use js_sys::{Array, Reflect, Uint8Array};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

use super::blobs::{BlobStore, Blobs, InMemory, OriginFiles};
use super::database::{BLOBS, MODELS, PART_INFO, PARTS, SETTINGS, Write, open_database, storage};
use super::pool::open_files;
use super::protocol::encode;
use crate::error::{ErrorCode, Result};
use crate::weights::PART_BYTES;

/// What is known of a model's file besides its parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRecord {
    /// The file's key in all stores.
    pub key: String,
    /// The key of the model that the file is of: the same where the model is one file.
    #[serde(default)]
    pub model: String,
    /// Where it came from.
    pub url: String,
    /// For people.
    pub name: String,
    /// Bytes of the whole file, if the server told.
    pub size: Option<u64>,
    /// Where the last tensor ends: what is stored when all of it is.
    pub data_end: u64,
    /// As the server gave it, if it did and the page may see it.
    pub etag: Option<String>,
    /// As the server gave it.
    pub last_modified: Option<String>,
    /// Milliseconds since 1970.
    pub last_used: f64,
    /// Whether the last load ended as it should. If not, all parts are checked again.
    pub clean: bool,
    /// Loads so far; rotates which parts are checked.
    pub loads: u32,
    /// Not removed to make room.
    #[serde(default)]
    pub pinned: bool,
    /// SHA-256 of the whole file, once it was found to be the expected one.
    #[serde(default)]
    pub sha256: Option<String>,
}

impl ModelRecord {
    /// The model's key.
    pub fn model(&self) -> &str {
        if self.model.is_empty() { &self.key } else { &self.model }
    }

    /// Number of parts of the whole file.
    pub fn n_parts(&self) -> u32 {
        self.data_end.div_ceil(PART_BYTES) as u32
    }
}

/// What is known of a stored part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartInfo {
    /// Position in the file, in units of [`PART_BYTES`].
    pub index: u32,
    /// Bytes.
    pub len: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// What is stored of a part: a Blob where the browser keeps such, and its bytes.
#[derive(Clone, Debug)]
pub struct StoredPart {
    /// A reference to the bytes.
    pub blob: Option<Blob>,
    /// Outside of the wasm memory.
    pub bytes: Uint8Array,
}

/// Where new parts' bytes go.
#[derive(Clone, Copy, Debug)]
enum Place {
    Blobs,
    Files,
    Arrays,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Blobs => "indexeddb",
            Place::Files => "opfs",
            Place::Arrays => "arrays",
        }
    }
}

/// The database. Reopened by itself after the browser closed it.
#[derive(Debug)]
pub struct Store {
    database: RefCell<Rc<Database>>,
    /// The origin's files, where there are such.
    files: Option<OriginFiles>,
    /// Where new parts go, once that is known.
    place: Cell<Option<Place>>,
    /// Hashes of bytes that a load counts on and has not linked to its file yet: they are not swept.
    held: RefCell<HashSet<String>>,
}

thread_local! {
    /// The one connection of this worker, as long as somebody uses it.
    static OPEN: RefCell<Weak<Store>> = const { RefCell::new(Weak::new()) };
}

/// A connection that is only forgotten stays open, and is told of version changes that nobody hears.
impl Drop for Store {
    fn drop(&mut self) {
        self.database.borrow().close();
    }
}

impl Store {
    /// Opens the database, and makes it on the first visit.
    /// # Errors
    /// `Storage` where the browser gives none (private windows of some browsers, sandboxed frames).
    pub async fn open() -> Result<Rc<Store>> {
        if let Some(open) = OPEN.with_borrow(Weak::upgrade) {
            return Ok(open);
        }
        let database = RefCell::new(open_database().await?);
        let (place, held) = Default::default();
        let store = Rc::new(Store { database, files: open_files().await, place, held });
        OPEN.set(Rc::downgrade(&store));
        // What a tab wrote and did not live to refer to.
        let swept = Rc::clone(&store);
        wasm_bindgen_futures::spawn_local(async move { swept.sweep_files().await });
        Ok(store)
    }

    /// Where new parts go, as `PartStore` of types.ts has it; `None` before the first one.
    pub fn place(&self) -> Option<&'static str> {
        self.place.get().map(Place::name)
    }

    /// What was found when the first part was kept: `PartStore` of types.ts, or `undefined`.
    /// # Errors
    /// `Storage`.
    pub async fn part_store(&self) -> Result<JsValue> {
        let transaction = self.transaction(&[SETTINGS], TransactionMode::ReadOnly).await?;
        let request = transaction.object_store(SETTINGS).and_then(|store| store.get(JsValue::from(PARTS)));
        Ok(request.map_err(storage)?.await.map_err(storage)?.unwrap_or_default())
    }

    /// Finds where new parts go: files where they are clearly faster here, which is measured once.
    async fn find_place(&self) -> Result<Place> {
        if let Some(place) = self.place.get() {
            return Ok(place);
        }
        let mut found = self.part_store().await?;
        if found.is_undefined()
            && let Some(files) = &self.files
        {
            found = JsFuture::from(files.measure()).await.unwrap_or_default();
            let write = self.write(&[SETTINGS]).await?;
            let result =
                write.store(SETTINGS).and_then(|store| store.put(&found, Some(&JsValue::from(PARTS))));
            write.end(result.map(drop)).await?;
        }
        let name = Reflect::get(&found, &"store".into()).ok().and_then(|name| name.as_string());
        let place = match name.as_deref() {
            Some("opfs") if self.files.is_some() => Place::Files,
            Some("arrays") => Place::Arrays,
            _ => Place::Blobs,
        };
        self.place.set(Some(place));
        Ok(place)
    }

    /// The store of a place.
    fn at(&self, place: Place) -> &dyn BlobStore {
        match (place, &self.files) {
            (Place::Files, Some(files)) => files,
            (Place::Arrays, _) => &InMemory,
            (Place::Blobs | Place::Files, _) => &Blobs,
        }
    }

    /// The store that a reference is of.
    fn of(&self, reference: &JsValue) -> &dyn BlobStore {
        self.at(match reference {
            file if file.is_string() => Place::Files,
            blob if blob.is_instance_of::<Blob>() => Place::Blobs,
            _ => Place::Arrays,
        })
    }

    /// Removes files that the database does not refer to.
    async fn sweep_files(&self) {
        let Some(files) = &self.files else { return };
        let names = files.list().await;
        let known = match names.length() {
            0 => None,
            // Nothing is removed where it cannot be known what is needed.
            _ => self.hashes().await.ok(),
        };
        let gone = match known {
            Some(known) => {
                let names =
                    names.iter().filter(|name| !name.as_string().is_some_and(|name| known.contains(&name)));
                names.collect()
            }
            None => Array::new(),
        };
        files.delete(&gone).await;
    }

    /// Keeps bytes that a load counts on from being swept until [`Store::link`].
    pub fn hold(&self, hashes: impl IntoIterator<Item = String>) {
        self.held.borrow_mut().extend(hashes);
    }

    /// The record of `key`.
    /// # Errors
    /// `Storage` when the database fails. A record that cannot be read counts as absent.
    pub async fn record(&self, key: &str) -> Result<Option<ModelRecord>> {
        let transaction = self.transaction(&[MODELS], TransactionMode::ReadOnly).await?;
        let request = transaction.object_store(MODELS).and_then(|store| store.get(JsValue::from(key)));
        let value = request.map_err(storage)?.await.map_err(storage)?;
        Ok(value.and_then(|value| serde_wasm_bindgen::from_value(value).ok()))
    }

    /// Writes a model's record.
    /// # Errors
    /// `Storage` or `QuotaExceeded`.
    pub async fn put_record(&self, record: &ModelRecord) -> Result<()> {
        self.link(record, &[]).await
    }

    /// The same, and notes that `parts` are of the file too, whose bytes are stored already.
    /// # Errors
    /// `Storage` or `QuotaExceeded`.
    pub async fn link(&self, record: &ModelRecord, parts: &[PartInfo]) -> Result<()> {
        let key = JsValue::from(record.key.as_str());
        let write = self.write(&[MODELS, PART_INFO]).await?;
        let requests = || {
            write.store(MODELS)?.put(&encode(record), Some(&key))?;
            let infos = write.store(PART_INFO)?;
            parts.iter().try_for_each(|info| {
                infos.put(&encode(info), Some(&part_key(&record.key, info.index))).map(drop)
            })
        };
        let result = requests();
        write.end(result).await?;
        self.held.borrow_mut().retain(|hash| !parts.iter().any(|info| info.sha256 == *hash));
        Ok(())
    }

    /// The stored parts of `key`, by index.
    /// # Errors
    /// `Storage`.
    pub async fn parts(&self, key: &str) -> Result<Vec<PartInfo>> {
        let transaction = self.transaction(&[PART_INFO], TransactionMode::ReadOnly).await?;
        let range = Query::KeyRange(all_parts(key)?);
        let request = transaction.object_store(PART_INFO).and_then(|store| store.get_all(Some(range), None));
        let values = request.map_err(storage)?.await.map_err(storage)?;
        Ok(values.into_iter().filter_map(|value| serde_wasm_bindgen::from_value(value).ok()).collect())
    }

    /// What the database has under a part's hash.
    async fn reference(&self, info: &PartInfo) -> Result<Option<JsValue>> {
        let transaction = self.transaction(&[BLOBS], TransactionMode::ReadOnly).await?;
        let hash = JsValue::from(info.sha256.as_str());
        let request = transaction.object_store(BLOBS).and_then(|store| store.get(hash));
        // A Blob whose file is gone fails here or when it is read: the part is lost, not the database.
        Ok(request.map_err(storage)?.await.unwrap_or(None))
    }

    /// What a page can read a part by: a Blob or an array; `undefined` when it is not there.
    /// # Errors
    /// `Storage` when the database fails as a whole.
    pub async fn read_data(&self, info: &PartInfo) -> Result<JsValue> {
        match self.reference(info).await? {
            Some(reference) => Ok(self.of(&reference).share(&info.sha256, reference).await),
            None => Ok(JsValue::UNDEFINED),
        }
    }

    /// A part. `None` when it is not there or cannot be read.
    /// # Errors
    /// `Storage` when the database fails as a whole.
    pub async fn read_part(&self, info: &PartInfo) -> Result<Option<StoredPart>> {
        match self.reference(info).await? {
            Some(reference) => Ok(self.of(&reference).get(&info.sha256, reference).await),
            None => Ok(None),
        }
    }

    /// Stores a part: its bytes, and then all that the database says of it in one transaction. Where one store fails, the
    /// next takes it.
    /// # Errors
    /// `QuotaExceeded` when the browser's storage is full, else `Storage`.
    pub async fn put_part(&self, key: &str, info: &PartInfo, bytes: &Uint8Array) -> Result<()> {
        let mut place = self.find_place().await?;
        loop {
            let store = self.at(place);
            let kept = match store.put(&info.sha256, bytes).await {
                Ok(reference) => self.put_data(key, info, &reference).await,
                Err(error) => Err(error),
            };
            store.settle(&info.sha256);
            place = match (&kept, place) {
                (Err(error), Place::Files) if error.code() == ErrorCode::Storage => Place::Blobs,
                (Err(error), Place::Blobs) if error.code() == ErrorCode::Storage => Place::Arrays,
                _ => return kept,
            };
        }
    }

    async fn put_data(&self, key: &str, info: &PartInfo, data: &JsValue) -> Result<()> {
        let part = part_key(key, info.index);
        let hash = JsValue::from(info.sha256.as_str());
        let write = self.write(&[PART_INFO, BLOBS]).await?;
        let requests = || {
            write.store(BLOBS)?.put(data, Some(&hash))?;
            write.store(PART_INFO)?.put(&encode(info), Some(&part)).map(drop)
        };
        let result = requests();
        write.end(result).await
    }

    /// Ends a transaction that removed references, and removes the files that only they were to.
    async fn end_removal(&self, write: Write, result: std::result::Result<(), idb::Error>) -> Result<()> {
        write.end(result).await?;
        self.sweep_files().await;
        Ok(())
    }

    /// Removes a bad part: its bytes are bad for every file that has them.
    /// # Errors
    /// `Storage`.
    pub async fn delete_part(&self, key: &str, info: &PartInfo) -> Result<()> {
        let part = part_key(key, info.index);
        let hash = JsValue::from(info.sha256.as_str());
        let write = self.write(&[PART_INFO, BLOBS]).await?;
        let requests = || {
            write.store(BLOBS)?.delete(hash)?;
            write.store(PART_INFO)?.delete(part).map(drop)
        };
        let result = requests();
        self.end_removal(write, result).await
    }

    /// Removes a file and all its parts but those that another file has too.
    /// # Errors
    /// `Storage`.
    pub async fn delete_file(&self, key: &str) -> Result<()> {
        let (all, gone) = (Query::KeyRange(all_parts(key)?), Query::KeyRange(all_parts(key)?));
        let write = self.write(&[MODELS, PART_INFO, BLOBS]).await?;
        let requests = async {
            write.store(MODELS)?.delete(JsValue::from(key))?;
            let infos = write.store(PART_INFO)?;
            let own = hashes_of(infos.get_all(Some(all), None)?.await?);
            infos.delete(gone)?;
            self.sweep(&write, own).await
        };
        let result = requests.await;
        self.end_removal(write, result).await
    }

    /// Removes parts of files that have no record, and bytes that no part refers to.
    /// # Errors
    /// `Storage`.
    pub async fn collect(&self) -> Result<()> {
        let write = self.write(&[MODELS, PART_INFO, BLOBS]).await?;
        let requests = async {
            let models = write.store(MODELS)?.get_all_keys(None, None)?.await?;
            let keys: HashSet<String> = models.iter().filter_map(JsValue::as_string).collect();
            let infos = write.store(PART_INFO)?;
            for part in infos.get_all_keys(None, None)?.await? {
                let file = Array::from(&part).get(0).as_string();
                if !file.is_some_and(|file| keys.contains(&file)) {
                    infos.delete(part)?;
                }
            }
            let all = write.store(BLOBS)?.get_all_keys(None, None)?.await?;
            self.sweep(&write, all.iter().filter_map(JsValue::as_string).collect()).await
        };
        let result = requests.await;
        self.end_removal(write, result).await
    }

    /// Removes the bytes of those of `hashes` that no file's part has. In the transaction that took the parts away: no
    /// other tab can refer to the bytes in between.
    async fn sweep(&self, write: &Write, hashes: HashSet<String>) -> std::result::Result<(), idb::Error> {
        let used = hashes_of(write.store(PART_INFO)?.get_all(None, None)?.await?);
        let blobs = write.store(BLOBS)?;
        let held = self.held.borrow();
        let mut unused = hashes.iter().filter(|hash| !used.contains(*hash) && !held.contains(*hash));
        unused.try_for_each(|hash| blobs.delete(JsValue::from(hash.as_str())).map(drop))
    }

    /// All records.
    /// # Errors
    /// `Storage`.
    pub async fn records(&self) -> Result<Vec<ModelRecord>> {
        self.all(MODELS).await
    }

    /// The hashes of all bytes that are stored.
    /// # Errors
    /// `Storage`.
    pub async fn hashes(&self) -> Result<HashSet<String>> {
        Ok(self.keys(BLOBS).await?.iter().filter_map(JsValue::as_string).collect())
    }

    /// All values of a store that can be read.
    async fn all<T: DeserializeOwned>(&self, store: &str) -> Result<Vec<T>> {
        let transaction = self.transaction(&[store], TransactionMode::ReadOnly).await?;
        let request = transaction.object_store(store).and_then(|store| store.get_all(None, None));
        let values = request.map_err(storage)?.await.map_err(storage)?;
        Ok(values.into_iter().filter_map(|value| serde_wasm_bindgen::from_value(value).ok()).collect())
    }

    /// All keys of a store.
    async fn keys(&self, store: &str) -> Result<Vec<JsValue>> {
        let transaction = self.transaction(&[store], TransactionMode::ReadOnly).await?;
        let request = transaction.object_store(store).and_then(|store| store.get_all_keys(None, None));
        request.map_err(storage)?.await.map_err(storage)
    }

    /// A new transaction; the connection is made anew when the browser has closed it (site data cleared, Safari's
    /// background tabs, another tab upgrading).
    async fn transaction(&self, stores: &[&str], mode: TransactionMode) -> Result<Transaction> {
        let database = Rc::clone(&self.database.borrow());
        match database.transaction(stores, mode) {
            Ok(transaction) => Ok(transaction),
            Err(_) => {
                let reopened = open_database().await?;
                let transaction = reopened.transaction(stores, mode).map_err(storage);
                self.database.replace(reopened);
                transaction
            }
        }
    }

    /// A read-write transaction.
    async fn write(&self, stores: &[&str]) -> Result<Write> {
        Ok(Write::of(self.transaction(stores, TransactionMode::ReadWrite).await?))
    }
}

fn hashes_of(infos: Vec<JsValue>) -> HashSet<String> {
    let infos = infos.into_iter().filter_map(|info| serde_wasm_bindgen::from_value::<PartInfo>(info).ok());
    infos.map(|info| info.sha256).collect()
}

/// All bytes of a Blob, outside of the wasm memory.
/// # Errors
/// What the browser threw: the file behind it is gone, was changed, or cannot be read.
pub async fn read_blob(blob: &Blob) -> std::result::Result<Uint8Array, JsValue> {
    let buffer = JsFuture::from(blob.array_buffer()).await?;
    Ok(Uint8Array::new(&buffer))
}

/// Bytes `range` of a Blob, fewer where it ends before, outside of the wasm memory.
/// # Errors
/// As [`read_blob`].
pub async fn read_slice(blob: &Blob, range: Range<u64>) -> std::result::Result<Uint8Array, JsValue> {
    read_blob(&blob.slice_with_f64_and_f64(range.start as f64, range.end as f64)?).await
}

fn part_key(key: &str, index: u32) -> JsValue {
    Array::of2(&key.into(), &index.into()).into()
}

/// Keys of all parts of a model: arrays sort after numbers, so `[key, []]` is after every `[key, index]`.
fn all_parts(key: &str) -> Result<KeyRange> {
    let lower: JsValue = Array::of1(&key.into()).into();
    let upper: JsValue = Array::of2(&key.into(), &Array::new()).into();
    KeyRange::bound(&lower, &upper, None, None).map_err(storage)
}
