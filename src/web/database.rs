//! The database in IndexedDB: its stores, its upgrades, transactions that write, and why they fail.
//!
//! Principal type: [`Write`]. Must not know what is in the stores.

use std::cell::RefCell;
use std::rc::Rc;

use idb::{Database, DatabaseEvent as _, Factory, ObjectStore, ObjectStoreParams, Transaction};

use super::task::Task;
use crate::error::{Error, ErrorCode, Result};

const DATABASE: &str = "lamplight";
/// Raised when the stores below change; those that an older version had and this one has not go with the upgrade.
const VERSION: u32 = 3;
/// `key -> ModelRecord`
pub(super) const MODELS: &str = "models";
/// `[key, index] -> PartInfo`: small, so that models can be listed without touching Blobs.
pub(super) const PART_INFO: &str = "partInfo";
/// `sha256 -> Blob`, `Uint8Array`, or a string that says that a file has the bytes.
pub(super) const BLOBS: &str = "blobs";
/// [`PARTS`] `-> PartStore` of types.ts.
pub(super) const SETTINGS: &str = "settings";
pub(super) const PARTS: &str = "parts";

const STORES: [&str; 4] = [MODELS, PART_INFO, BLOBS, SETTINGS];

/// Opens the database, and makes or upgrades it.
pub(super) async fn open_database() -> Result<Rc<Database>> {
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

/// A read-write transaction under way. Between its requests nothing else may be waited for: it would end.
pub(super) struct Write {
    transaction: Transaction,
    /// Whether it was committed.
    ended: Task<bool>,
}

impl Write {
    /// Of a transaction that is to write.
    pub(super) fn of(mut transaction: Transaction) -> Self {
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
        Write { transaction, ended }
    }

    /// One of the stores that it was begun with.
    pub(super) fn store(&self, name: &str) -> std::result::Result<ObjectStore, idb::Error> {
        self.transaction.object_store(name)
    }

    /// Waits for the transaction's end, or undoes it where a request failed. Its own abort is what tells of a full disk:
    /// the requests themselves may all have succeeded by then.
    pub(super) async fn end(self, result: std::result::Result<(), idb::Error>) -> Result<()> {
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
        Err(not_written(&name, &error.map_or_else(String::new, |error| error.message())))
    }
}

/// Why a write failed, by the name of what was thrown.
pub(super) fn not_written(name: &str, detail: &str) -> Error {
    if name == "QuotaExceededError" {
        let message = "the browser's storage for this site is full; delete a cached model or free disk space";
        return Error::new(ErrorCode::QuotaExceeded, message);
    }
    storage_error(detail)
}

pub(super) fn storage(error: idb::Error) -> Error {
    let detail = error.to_string();
    if detail.contains("VersionError") {
        let message =
            "the models of this site were stored by a newer release; reload the page to get that release";
        return Error::new(ErrorCode::Storage, message);
    }
    storage_error(&detail)
}

pub(super) fn storage_error(detail: &str) -> Error {
    Error::new(ErrorCode::Storage, format!("the browser's storage failed: {detail}"))
}
