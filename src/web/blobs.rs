//! Where the bytes of stored parts are: Blobs in the database, files of the origin's private file system, arrays.
//!
//! Principal type: [`BlobStore`]. The database refers to the bytes of a hash, and what it refers to counts; of whichever
//! store a reference is, it is read. Must not know models, nor the database's transactions.

use std::future::{Future, ready};
use std::pin::Pin;

use js_sys::{Array, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, DomException};

use super::database::{not_written, storage_error};
use super::store::{StoredPart, read_blob};
use super::task::describe;
use crate::error::Result;

#[wasm_bindgen]
extern "C" {
    /// `OriginFiles` of origin-files.ts.
    #[derive(Clone, Debug)]
    pub type OriginFiles;

    #[wasm_bindgen(method, js_name = put)]
    fn js_put(this: &OriginFiles, sha256: &str, bytes: &Uint8Array) -> Promise;

    #[wasm_bindgen(method, js_name = settle)]
    fn js_settle(this: &OriginFiles, sha256: &str);

    #[wasm_bindgen(method, js_name = get)]
    fn js_get(this: &OriginFiles, sha256: &str) -> Promise;

    #[wasm_bindgen(method, js_name = file)]
    fn js_file(this: &OriginFiles, sha256: &str) -> Promise;

    #[wasm_bindgen(method, js_name = list)]
    fn js_list(this: &OriginFiles) -> Promise;

    #[wasm_bindgen(method, js_name = delete)]
    fn js_delete(this: &OriginFiles, names: &Array) -> Promise;

    /// `PartStore` of types.ts.
    #[wasm_bindgen(method)]
    pub fn measure(this: &OriginFiles) -> Promise;
}

/// What a store answers later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A place for bytes that are named by their SHA-256.
pub trait BlobStore {
    /// Keeps bytes, and gives what the database shall refer to them by: from then on they are whole and stay.
    fn put<'a>(&'a self, sha256: &'a str, bytes: &'a Uint8Array) -> Later<'a, Result<JsValue>>;

    /// The database refers to what was put, or never will.
    fn settle(&self, _sha256: &str) {}

    /// The bytes of a reference; `None` where they are gone.
    fn get<'a>(&'a self, sha256: &'a str, reference: JsValue) -> Later<'a, Option<StoredPart>>;

    /// What a page can read the bytes of a reference by.
    fn share<'a>(&'a self, _sha256: &'a str, reference: JsValue) -> Later<'a, JsValue> {
        Box::pin(ready(reference))
    }

    /// The names of what is kept outside of the database, which [`BlobStore::delete`] must follow.
    fn list(&self) -> Later<'_, Array> {
        Box::pin(ready(Array::new()))
    }

    /// Removes what nothing refers to.
    fn delete<'a>(&'a self, _names: &'a Array) -> Later<'a, ()> {
        Box::pin(ready(()))
    }
}

/// Blobs, which the database itself keeps.
pub struct Blobs;

impl BlobStore for Blobs {
    fn put<'a>(&'a self, _: &'a str, bytes: &'a Uint8Array) -> Later<'a, Result<JsValue>> {
        let blob = Blob::new_with_u8_array_sequence(&Array::of1(bytes));
        Box::pin(ready(blob.map(JsValue::from).map_err(|thrown| storage_error(&describe(&thrown)))))
    }

    fn get<'a>(&'a self, _: &'a str, reference: JsValue) -> Later<'a, Option<StoredPart>> {
        Box::pin(async {
            let blob: Blob = reference.dyn_into().ok()?;
            let bytes = read_blob(&blob).await.ok()?;
            Some(StoredPart { blob: Some(blob), bytes })
        })
    }
}

/// Arrays in the database, for browsers that keep no Blobs: in WebKit's private windows, where all of it is in memory.
pub struct InMemory;

impl BlobStore for InMemory {
    fn put<'a>(&'a self, _: &'a str, bytes: &'a Uint8Array) -> Later<'a, Result<JsValue>> {
        // A copy: storing a view would store all of the buffer behind it.
        Box::pin(ready(Ok(bytes.slice(0, bytes.length()).into())))
    }

    fn get<'a>(&'a self, _: &'a str, reference: JsValue) -> Later<'a, Option<StoredPart>> {
        Box::pin(ready(reference.dyn_into().ok().map(|bytes| StoredPart { blob: None, bytes })))
    }
}

impl BlobStore for OriginFiles {
    fn put<'a>(&'a self, sha256: &'a str, bytes: &'a Uint8Array) -> Later<'a, Result<JsValue>> {
        Box::pin(async move {
            match JsFuture::from(self.js_put(sha256, bytes)).await {
                Ok(_) => Ok(JsValue::from("opfs")),
                Err(thrown) => {
                    let name = thrown.dyn_ref().map_or_else(String::new, DomException::name);
                    Err(not_written(&name, &describe(&thrown)))
                }
            }
        })
    }

    fn settle(&self, sha256: &str) {
        self.js_settle(sha256);
    }

    fn get<'a>(&'a self, sha256: &'a str, _: JsValue) -> Later<'a, Option<StoredPart>> {
        Box::pin(async move {
            let bytes = JsFuture::from(self.js_get(sha256)).await.ok()?.dyn_into().ok()?;
            Some(StoredPart { blob: None, bytes })
        })
    }

    fn share<'a>(&'a self, sha256: &'a str, _: JsValue) -> Later<'a, JsValue> {
        Box::pin(async move { JsFuture::from(self.js_file(sha256)).await.unwrap_or_default() })
    }

    fn list(&self) -> Later<'_, Array> {
        Box::pin(async { JsFuture::from(self.js_list()).await.unwrap_or_default().unchecked_into() })
    }

    fn delete<'a>(&'a self, names: &'a Array) -> Later<'a, ()> {
        Box::pin(async move {
            // What stays is swept by the next one.
            let _ = JsFuture::from(self.js_delete(names)).await;
        })
    }
}
