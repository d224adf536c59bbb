//! Models in IndexedDB: one record per file, its parts by their SHA-256, and the parts' bytes as Blobs by that hash.
//!
//! Principal type: [`Store`]. A part is written in one transaction, so it is there whole or not at all, and a model is
//! complete when all its parts are there: nothing else says so. What two files have in common is stored once. Must not
//! know what the bytes mean; what is done with whole models is in `stored`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::{Rc, Weak};

use idb::{
    Database, DatabaseEvent as _, Factory, KeyRange, ObjectStore, ObjectStoreParams, Query, Transaction,
    TransactionMode,
};
use js_sys::{Array, Uint8Array};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::Blob;

use super::protocol::encode;
use super::task::Task;
use crate::error::{Error, ErrorCode, Result};
use crate::weights::PART_BYTES;

const DATABASE: &str = "lamplight";
/// Raised when the stores below change; those that an older version had and this one has not go with the upgrade.
const VERSION: u32 = 2;
/// `key -> ModelRecord`
const MODELS: &str = "models";
/// `[key, index] -> PartInfo`: small, so that models can be listed without touching Blobs.
const PART_INFO: &str = "partInfo";
/// `sha256 -> Blob`, or a `Uint8Array` where no Blob can be stored.
const BLOBS: &str = "blobs";

const STORES: [&str; 3] = [MODELS, PART_INFO, BLOBS];

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

/// The database. Reopened by itself after the browser closed it.
#[derive(Debug)]
pub struct Store {
    database: RefCell<Rc<Database>>,
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
        let store = Rc::new(Store { database, held: RefCell::default() });
        OPEN.set(Rc::downgrade(&store));
        Ok(store)
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

    /// What is stored of a part: a Blob or an array.
    /// # Errors
    /// `Storage` when the database fails as a whole.
    pub async fn read_data(&self, info: &PartInfo) -> Result<Option<JsValue>> {
        let transaction = self.transaction(&[BLOBS], TransactionMode::ReadOnly).await?;
        let hash = JsValue::from(info.sha256.as_str());
        let request = transaction.object_store(BLOBS).and_then(|store| store.get(hash));
        // A Blob whose file is gone fails here or when it is read: the part is lost, not the database.
        Ok(request.map_err(storage)?.await.unwrap_or(None))
    }

    /// A part. `None` when it is not there or cannot be read.
    /// # Errors
    /// `Storage` when the database fails as a whole.
    pub async fn read_part(&self, info: &PartInfo) -> Result<Option<StoredPart>> {
        let Some(value) = self.read_data(info).await? else { return Ok(None) };
        Ok(match value.dyn_into::<Blob>() {
            Ok(blob) => read_blob(&blob).await.ok().map(|bytes| StoredPart { blob: Some(blob), bytes }),
            Err(value) => value.dyn_into().ok().map(|bytes| StoredPart { blob: None, bytes }),
        })
    }

    /// Stores a part, in one transaction: as a Blob, or as an array where the browser keeps no Blobs (WebKit's private
    /// windows; there IndexedDB is in memory anyway).
    /// # Errors
    /// `QuotaExceeded` when the browser's storage is full, else `Storage`.
    pub async fn put_part(&self, key: &str, info: &PartInfo, bytes: &Uint8Array) -> Result<()> {
        let blob = Blob::new_with_u8_array_sequence(&Array::of1(bytes))
            .map_err(|thrown| storage_error(&super::task::describe(&thrown)))?;
        match self.put_data(key, info, &blob).await {
            // A copy: storing a view would store all of the buffer behind it.
            Err(error) if error.code() == ErrorCode::Storage => {
                self.put_data(key, info, &bytes.slice(0, bytes.length())).await
            }
            done => done,
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
        write.end(result).await
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
        write.end(result).await
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
        write.end(result).await
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
        let mut transaction = self.transaction(stores, TransactionMode::ReadWrite).await?;
        let (ended, finish) = Task::<bool>::pending();
        let finish = Rc::new(RefCell::new(Some(finish)));
        let on_abort = Rc::clone(&finish);
        transaction.on_complete(move |_| {
            if let Some(finish) = finish.take() {
                finish(true);
            }
        });
        transaction.on_abort(move |_| {
            if let Some(finish) = on_abort.take() {
                finish(false);
            }
        });
        Ok(Write { transaction, ended })
    }
}

/// A read-write transaction under way. Between its requests nothing else may be waited for: it would end.
struct Write {
    transaction: Transaction,
    /// Whether it was committed.
    ended: Task<bool>,
}

impl Write {
    fn store(&self, name: &str) -> std::result::Result<ObjectStore, idb::Error> {
        self.transaction.object_store(name)
    }

    /// Waits for the transaction's end, or undoes it where a request failed. Its own abort is what tells of a full disk:
    /// the requests themselves may all have succeeded by then.
    async fn end(self, result: std::result::Result<(), idb::Error>) -> Result<()> {
        let Write { transaction, mut ended } = self;
        let error = match result {
            Ok(()) if (&mut ended).await => return Ok(()),
            Ok(()) => transaction.error(),
            Err(error) => {
                // Where it has aborted by itself, that says why.
                let why = transaction.error();
                if let Ok(transaction) = transaction.abort() {
                    // Nothing of it shall stay; what the abort itself says is of no interest then.
                    ended.await;
                    drop(transaction);
                }
                if why.is_none() {
                    return Err(storage(error));
                }
                why
            }
        };
        let name = error.as_ref().map_or_else(String::new, web_sys::DomException::name);
        if name == "QuotaExceededError" {
            let message =
                "the browser's storage for this site is full; delete a cached model or free disk space";
            return Err(Error::new(ErrorCode::QuotaExceeded, message));
        }
        Err(storage_error(&error.map_or(name, |error| error.message())))
    }
}

fn hashes_of(infos: Vec<JsValue>) -> HashSet<String> {
    let infos = infos.into_iter().filter_map(|info| serde_wasm_bindgen::from_value::<PartInfo>(info).ok());
    infos.map(|info| info.sha256).collect()
}

async fn open_database() -> Result<Rc<Database>> {
    let mut request = Factory::new().and_then(|f| f.open(DATABASE, Some(VERSION))).map_err(storage)?;
    request.on_upgrade_needed(|event| {
        let Ok(database) = event.database() else { return };
        let there = database.store_names();
        // A failure here aborts the upgrade, and the open request then fails with it.
        for name in STORES.iter().filter(|name| !there.iter().any(|store| store == *name)) {
            let _ = database.create_object_store(name, ObjectStoreParams::new());
        }
        for name in there.iter().filter(|name| !STORES.contains(&name.as_str())) {
            let _ = database.delete_object_store(name);
        }
    });
    let (opened, finish) = Task::<Result<Database>>::pending();
    let finish = Rc::new(RefCell::new(Some(finish)));
    let on_blocked = Rc::clone(&finish);
    // Tabs of this release make way at once (below), so one that does not would keep us waiting until it is closed.
    request.on_blocked(move |_| {
        if let Some(finish) = on_blocked.take() {
            let message = "another tab holds the stored models in an older version; close it and reload";
            finish(Err(Error::new(ErrorCode::Storage, message)));
        }
    });
    wasm_bindgen_futures::spawn_local(async move {
        let result = request.await.map_err(storage);
        match (finish.take(), result) {
            (Some(finish), result) => finish(result),
            // It was opened too late.
            (None, Ok(database)) => database.close(),
            (None, Err(_)) => {}
        }
    });
    let mut database = opened.await?;
    // Another tab wants a newer version: holding on would block it for ever.
    database.on_version_change(|event| {
        if let Ok(database) = event.database() {
            database.close();
        }
    });
    Ok(Rc::new(database))
}

/// All bytes of a Blob, outside of the wasm memory.
/// # Errors
/// What the browser threw: the file behind it is gone, was changed, or cannot be read.
pub async fn read_blob(blob: &Blob) -> std::result::Result<Uint8Array, JsValue> {
    let buffer = wasm_bindgen_futures::JsFuture::from(blob.array_buffer()).await?;
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

fn storage(error: idb::Error) -> Error {
    let detail = error.to_string();
    if detail.contains("VersionError") {
        let message =
            "the models of this site were stored by a newer release; reload the page to get that release";
        return Error::new(ErrorCode::Storage, message);
    }
    storage_error(&detail)
}

fn storage_error(detail: &str) -> Error {
    Error::new(ErrorCode::Storage, format!("the browser's storage failed: {detail}"))
}
