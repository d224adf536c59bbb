//! A model file as parts: out of this browser's storage where they are there and whole, else from where the file is.
//!
//! Principal type: [`ModelFile`]. Bytes stay in JS arrays. Must not know what the weights are for, nor backends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use js_sys::{Reflect, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

use super::fetch::{HttpFile, Version};
use super::files::Expected;
use super::report::Reporter;
use super::store::{ModelRecord, PartInfo, Store, read_blob};
use super::task::{describe, hex, sha256_hex, update_sha256};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::PART_BYTES;

/// One in so many stored parts is checked when the last load ended well.
const CHECK_ONE_IN: u32 = 4;
/// Largest integer that JavaScript counts exactly; a file that claims more is no file.
const MAX_SIZE: u64 = (1 << 53) - 1;

/// Where a model's bytes come from.
pub enum Origin {
    /// A URL.
    Http(HttpFile),
    /// A file or Blob of the page.
    Local(Blob),
}

/// The stored parts of the model that is being loaded.
struct Cache {
    store: Rc<Store>,
    record: ModelRecord,
    /// Parts that were there when the load began and have not turned out bad.
    parts: BTreeMap<u32, PartInfo>,
    /// Whether other models may be removed to make room.
    evict: bool,
}

/// A part that is in place.
pub struct Part {
    /// Position in the file, in units of [`PART_BYTES`].
    pub index: u32,
    /// Which bytes of the file these are.
    pub range: Range<u64>,
    /// The bytes.
    pub bytes: Uint8Array,
    /// Whether storage lacks it.
    pub is_new: bool,
}

/// A model file.
pub struct ModelFile {
    origin: Origin,
    cache: RefCell<Option<Cache>>,
    /// Bytes from the file's start, as far as the header needed them.
    head: RefCell<Uint8Array>,
    /// What the file must be.
    expected: Expected,
    /// Over the parts so far, where the whole file's hash is to be compared.
    hash: RefCell<Option<Sha256>>,
    /// Where the last tensor ends, once that is known.
    end: Cell<u64>,
    reporter: Rc<Reporter>,
    /// Bytes that came out of storage.
    from_cache: Cell<u64>,
}

impl ModelFile {
    /// A file that is read where it is.
    pub fn new(origin: Origin, expected: Expected, reporter: Rc<Reporter>) -> Self {
        let head = RefCell::new(Uint8Array::new_with_length(0));
        // Parts that are compared one by one need not be compared together.
        let whole = expected.sha256.is_some() && expected.parts.is_empty();
        let hash = RefCell::new(whole.then(Sha256::new));
        let (cache, end, from_cache) = Default::default();
        Self { origin, cache, head, expected, hash, end, reporter, from_cache }
    }

    /// Takes the stored parts of `key`, a file of the model `model`, into account. Storage that fails is told of and left
    /// alone.
    pub async fn use_cache(&self, key: &str, model: &str, url: &str) {
        match self.open_cache(key, model, url).await {
            Ok(cache) => {
                // Parts that are known by their hashes need no server to vouch for them.
                if let Origin::Http(http) = &self.origin
                    && !cache.parts.is_empty()
                    && self.expected.parts.is_empty()
                {
                    let ModelRecord { size, etag, last_modified, .. } = cache.record.clone();
                    http.expect(Version { size, etag, last_modified });
                }
                self.cache.replace(Some(cache));
            }
            Err(error) => self.without_cache(&error),
        }
    }

    /// What storage has of the model; a first visit finds nothing and is no error.
    async fn open_cache(&self, key: &str, model: &str, url: &str) -> Result<Cache> {
        let store = Rc::new(Store::open().await?);
        let stored = store.record(key).await?;
        let mut parts = match stored {
            Some(_) => store.parts(key).await?,
            None => Vec::new(),
        };
        if !self.expected.parts.is_empty() {
            parts = self.expected_parts(&store, key, parts).await?;
        }
        let mut record = stored.unwrap_or_default();
        if self.expected.sha256.is_some() && record.sha256 == self.expected.sha256 {
            self.hash.take();
        }
        record.key = key.to_owned();
        record.model = model.to_owned();
        record.url = url.to_owned();
        let parts = parts.into_iter().map(|part| (part.index, part)).collect();
        Ok(Cache { store, record, parts, evict: false })
    }

    /// Of a file whose parts' hashes are known, those that are stored, be it with another file.
    async fn expected_parts(&self, store: &Store, key: &str, stored: Vec<PartInfo>) -> Result<Vec<PartInfo>> {
        let there = store.hashes().await?;
        let mut parts = Vec::new();
        for (index, sha256) in (0..).zip(&self.expected.parts) {
            let known = stored.iter().find(|part| part.index == index && part.sha256 == *sha256);
            let start = u64::from(index) * PART_BYTES;
            let len = self.expected.data_end.saturating_sub(start).min(PART_BYTES);
            match known {
                Some(part) => parts.push(part.clone()),
                None if there.contains(sha256) => {
                    let part = PartInfo { index, len, sha256: sha256.clone() };
                    store.put_info(key, &part).await?;
                    parts.push(part);
                }
                None => {}
            }
        }
        Ok(parts)
    }

    /// Goes on without storage, and says so once: a model that runs is worth more than one that is kept.
    fn without_cache(&self, error: &Error) {
        if self.cache.take().is_some() || error.code() == ErrorCode::Storage {
            self.reporter.warn_of(error, "the model is used without being kept in this browser");
        }
    }

    /// Makes `head` at least `wanted` bytes long; false when the file ended before.
    async fn read_head(&self, wanted: u64) -> Result<bool> {
        loop {
            let at = u64::from(self.head.borrow().length());
            if at >= wanted {
                return Ok(true);
            }
            if self.size().is_some_and(|size| at >= size) {
                return Ok(false);
            }
            let index = (at / PART_BYTES) as u32;
            let stored = if at.is_multiple_of(PART_BYTES) { self.stored_part(index).await? } else { None };
            let more = match stored {
                Some(bytes) => bytes,
                None => {
                    // Up to a part's end, so that what is read is never more than a part's beginning.
                    let end = wanted.min((u64::from(index) + 1) * PART_BYTES);
                    let target = Uint8Array::new_with_length((end - at) as u32);
                    let n_read = self.read(at, &target).await?;
                    if n_read == 0 {
                        return Ok(false);
                    }
                    target.subarray(0, n_read)
                }
            };
            // The steps double, so copying what is there costs as much as the last step at most.
            let joined = Uint8Array::new_with_length(at as u32 + more.length());
            joined.set(&self.head.borrow(), 0);
            joined.set(&more, at as u32);
            self.head.replace(joined);
        }
    }

    /// Bytes `range`, which begins where all before have been read: part of a header. Fewer at the file's end.
    /// # Errors
    /// What the origin says.
    pub async fn beginning(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.read_head(range.end).await?;
        if self.size().is_some_and(|size| size > MAX_SIZE) {
            let message = "the server claims an impossible size for the file";
            return Err(Error::new(ErrorCode::LimitExceeded, message));
        }
        // A stored part comes whole; the parser gets no more of it than it asked for, for the sake of wasm memory.
        let head = self.head.borrow();
        let clip = |at: u64| at.min(u64::from(head.length())) as u32;
        Ok(head.subarray(clip(range.start), clip(range.end)).to_vec())
    }

    /// Size of the file, when known; what storage keeps of it ends with its last tensor.
    pub fn size(&self) -> Option<u64> {
        match &self.origin {
            Origin::Http(_) if self.expected.data_end > 0 => Some(self.expected.data_end),
            Origin::Http(http) => {
                let cache = self.cache.borrow();
                let kept = cache.as_ref().filter(|cache| !cache.parts.is_empty());
                let kept = kept.map(|cache| cache.record.data_end).filter(|end| *end > 0);
                kept.or(http.version().size)
            }
            Origin::Local(blob) => Some(blob.size() as u64),
        }
    }

    /// Bytes from `start` on, from where the file is; fewer than `target` only at the file's end.
    async fn read(&self, start: u64, target: &Uint8Array) -> Result<u32> {
        match &self.origin {
            Origin::Http(http) => http.read(start, target).await,
            Origin::Local(blob) => {
                let end = start + u64::from(target.length());
                let unreadable = |thrown| {
                    let message = format!("the local file cannot be read: {}", describe(&thrown));
                    Error::new(ErrorCode::Io, message)
                };
                let slice = blob.slice_with_f64_and_f64(start as f64, end as f64).map_err(unreadable)?;
                let bytes = read_blob(&slice).await.map_err(unreadable)?;
                target.set(&bytes, 0);
                self.reporter.add(u64::from(bytes.length()));
                Ok(bytes.length())
            }
        }
    }

    /// Goes on without storage.
    pub fn leave_cache(&self) {
        self.cache.take();
    }

    /// Bytes that storage lacks of a file of `data_end`.
    pub fn missing(&self, data_end: u64) -> u64 {
        let stored = |cache: &Cache| cache.parts.values().map(|part| part.len).sum();
        data_end.saturating_sub(self.cache.borrow().as_ref().map_or(0, stored))
    }

    /// Begins the load proper, now that the file is known to be a model of `data_end` bytes. Where `evict`, other models
    /// are removed when storage turns out to be full.
    pub async fn begin(&self, name: &str, data_end: u64, evict: bool) {
        self.end.set(data_end);
        let Some((store, mut record)) =
            self.cache.borrow().as_ref().map(|cache| (Rc::clone(&cache.store), cache.record.clone()))
        else {
            return;
        };
        if let Origin::Http(http) = &self.origin {
            let version = http.version();
            record.size = version.size.or(record.size);
            record.etag = version.etag.or(record.etag);
            record.last_modified = version.last_modified.or(record.last_modified);
        }
        record.name = name.to_owned();
        record.data_end = data_end;
        record.last_used = js_sys::Date::now();
        // A load that dies leaves this mark, and the next one then trusts no part unseen.
        let marked = ModelRecord { clean: false, ..record.clone() };
        match store.put_record(&marked).await {
            Ok(()) => {
                if let Some(cache) = self.cache.borrow_mut().as_mut() {
                    cache.record = record;
                    cache.evict = evict;
                }
            }
            Err(error) => self.without_cache(&error),
        }
    }

    /// Ends the load: all parts are in place.
    pub async fn finish(&self) {
        let Some((store, mut record)) =
            self.cache.borrow().as_ref().map(|cache| (Rc::clone(&cache.store), cache.record.clone()))
        else {
            return;
        };
        record.clean = true;
        record.loads = record.loads.wrapping_add(1);
        if let Err(error) = store.put_record(&record).await {
            self.without_cache(&error);
        }
    }

    /// Whether storage has the part (it may still turn out bad).
    pub fn is_stored(&self, index: u32) -> bool {
        self.cache.borrow().as_ref().is_some_and(|cache| cache.parts.contains_key(&index))
    }

    /// Takes the next part's bytes into account for the whole file's hash.
    pub fn digest(&self, bytes: &Uint8Array) {
        if let Some(hash) = self.hash.borrow_mut().as_mut() {
            update_sha256(hash, bytes);
        }
    }

    /// Compares the whole file's hash with the expected one, when all parts have been taken into account.
    /// # Errors
    /// `Integrity`; what is stored of the file is removed then. What the origin says.
    pub async fn check_digest(&self) -> Result<()> {
        let Some(mut hash) = self.hash.take() else { return Ok(()) };
        let (Some(expected), Origin::Http(http)) = (&self.expected.sha256, &self.origin) else {
            return Ok(());
        };
        // What follows the last tensor is of no use but belongs to the file.
        let at = self.cache.borrow().as_ref().map_or(self.end.get(), |cache| cache.record.data_end);
        let left = http.version().size.unwrap_or(at).saturating_sub(at).min(PART_BYTES);
        if left > 0 {
            let tail = Uint8Array::new_with_length(left as u32);
            let n_read = http.read(at, &tail).await?;
            update_sha256(&mut hash, &tail.subarray(0, n_read));
        }
        let found = hex(&hash.finalize());
        if found != *expected {
            self.discard().await;
            let message = format!(
                "the file at {} has the SHA-256 {found}, not {expected} as it should: it is damaged, or another file",
                http.url()
            );
            return Err(Error::new(ErrorCode::Integrity, message));
        }
        if let Some(cache) = self.cache.borrow_mut().as_mut() {
            cache.record.sha256 = Some(found);
        }
        Ok(())
    }

    /// Whether the file's server answers requests for parts, so that several can be made at a time.
    pub fn has_ranges(&self) -> bool {
        matches!(&self.origin, Origin::Http(http) if http.has_ranges())
    }

    /// Whether storage takes part in this load.
    pub fn is_cached(&self) -> bool {
        self.cache.borrow().is_some()
    }

    /// The part at `range`, from storage or from where the file is.
    /// # Errors
    /// What the origin says; `Truncated` when the file ends within the part.
    pub async fn part(self: Rc<Self>, index: u32, range: Range<u64>) -> Result<Part> {
        let len = (range.end - range.start) as u32;
        let head = self.head.borrow().clone();
        let in_head = u64::from(head.length()).saturating_sub(range.start).min(u64::from(len)) as u32;
        let start = range.start.min(u64::from(head.length())) as u32;
        let read_before = head.subarray(start, start + in_head);
        if in_head == len {
            if self.is_expected(index, &read_before).await {
                let is_new = !self.is_stored(index);
                return Ok(Part { index, range, bytes: read_before, is_new });
            }
        } else if let Some(bytes) = self.stored_part(index).await? {
            if bytes.length() == len {
                return Ok(Part { index, range, bytes, is_new: false });
            }
            self.forget(index, "has another length than the file now").await;
        }
        // The header's own reads are this part's beginning: no byte is asked for twice.
        let target = Uint8Array::new_with_length(len);
        target.set(&read_before, 0);
        self.fetch(&range, &target, in_head).await?;
        if !self.is_expected(index, &target).await {
            // Once more, in case it was damaged on its way.
            let message = format!("part {index} of the model arrived damaged, and is fetched again");
            self.reporter.warn(ErrorCode::Integrity, message);
            self.fetch(&range, &target, 0).await?;
            // A header that was damaged has been believed by now.
            let header = sha256_hex(&target.subarray(0, in_head)).await == sha256_hex(&read_before).await;
            if !header || !self.is_expected(index, &target).await {
                let message =
                    format!("part {index} of the model is not the one that its manifest names; try again");
                return Err(Error::new(ErrorCode::Integrity, message));
            }
        }
        Ok(Part { index, range, bytes: target, is_new: true })
    }

    /// Fills `target`, the bytes at `range`, from byte `from` on.
    async fn fetch(&self, range: &Range<u64>, target: &Uint8Array, from: u32) -> Result<()> {
        let start = range.start + u64::from(from);
        let n_read = self.read(start, &target.subarray(from, target.length())).await?;
        let at = start + u64::from(n_read);
        if at < range.end {
            let message = format!("the file ends at byte {at}, within its tensors; it is incomplete");
            return Err(Error::new(ErrorCode::Truncated, message));
        }
        Ok(())
    }

    /// Whether a part is as the manifest says, if there is one.
    async fn is_expected(&self, index: u32, bytes: &Uint8Array) -> bool {
        match self.expected.parts.get(index as usize) {
            Some(expected) => sha256_hex(bytes).await == *expected,
            None => true,
        }
    }

    /// A stored part, checked as the rules say; `None` when there is none that can be used.
    async fn stored_part(&self, index: u32) -> Result<Option<Uint8Array>> {
        let found = self.cache.borrow().as_ref().and_then(|cache| {
            let info = cache.parts.get(&index)?.clone();
            let record = &cache.record;
            let sampled =
                index.is_multiple_of(CHECK_ONE_IN) || index % CHECK_ONE_IN == record.loads % CHECK_ONE_IN;
            let check = !record.clean || record.loads == 0 || index == 0 || sampled;
            Some((Rc::clone(&cache.store), record.key.clone(), info, check))
        });
        let Some((store, key, info, check)) = found else { return Ok(None) };
        let bytes = match store.read_part(&key, &info).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.without_cache(&error);
                return Ok(None);
            }
        };
        // Browsers notice a Blob that is gone or cut short, but not one whose bytes have changed.
        let fault = match &bytes {
            None => Some("cannot be read"),
            Some(bytes) if u64::from(bytes.length()) != info.len => Some("is cut short"),
            Some(bytes) if check && sha256_hex(bytes).await != info.sha256 => Some("is damaged"),
            Some(_) => None,
        };
        if let Some(fault) = fault {
            self.forget(index, fault).await;
            return Ok(None);
        }
        self.from_cache.set(self.from_cache.get() + info.len);
        self.reporter.add(info.len);
        Ok(bytes)
    }

    /// Drops a stored part that is of no use; it will be fetched again by itself.
    async fn forget(&self, index: u32, fault: &str) {
        let found = self.cache.borrow_mut().as_mut().and_then(|cache| {
            let info = cache.parts.remove(&index)?;
            Some((Rc::clone(&cache.store), cache.record.key.clone(), info))
        });
        let Some((store, key, info)) = found else { return };
        let message = format!("part {index} of the stored model {fault}, and is fetched again");
        self.reporter.warn(ErrorCode::Integrity, message);
        if let Err(error) = store.delete_part(&key, &info).await {
            self.without_cache(&error);
        }
    }

    /// Stores a part. When that fails, the load goes on without storage.
    pub async fn keep(self: Rc<Self>, index: u32, bytes: Uint8Array) {
        let found = self.cache.borrow().as_ref().map(|cache| {
            let record = &cache.record;
            (Rc::clone(&cache.store), record.key.clone(), record.model().to_owned(), cache.evict)
        });
        let Some((store, key, model, evict)) = found else { return };
        let sha256 = sha256_hex(&bytes).await;
        let info = PartInfo { index, len: u64::from(bytes.length()), sha256 };
        let mut kept = store.put_part(&key, &info, &bytes).await;
        if kept.as_ref().is_err_and(|error| error.code() == ErrorCode::QuotaExceeded) {
            kept = async {
                store.collect().await?;
                if evict {
                    store.evict(info.len, &model).await?;
                }
                store.put_part(&key, &info, &bytes).await
            }
            .await;
        }
        match kept {
            // It may be read again.
            Ok(()) => {
                if let Some(cache) = self.cache.borrow_mut().as_mut() {
                    cache.parts.insert(index, info);
                }
            }
            Err(error) => self.without_cache(&error),
        }
    }

    /// Removes all that is stored of this model: the server has another file now.
    pub async fn discard(&self) {
        let cache = self.cache.take();
        if let Some(cache) = cache
            && let Err(error) = cache.store.delete_file(&cache.record.key).await
        {
            self.reporter.warn_of(&error, "the old version of the model stays in this browser");
        }
    }

    /// The bytes from the file's start that have been read for its header.
    pub fn head(&self) -> Uint8Array {
        self.head.borrow().clone()
    }

    /// A part for other workers: a reference to where it is, from which they read what is theirs.
    /// # Errors
    /// `Io` or `OutOfMemory`.
    pub async fn blob(&self, part: &Part) -> Result<Blob> {
        if let Origin::Local(blob) = &self.origin {
            let slice = blob.slice_with_f64_and_f64(part.range.start as f64, part.range.end as f64);
            return slice.map_err(|thrown| Error::new(ErrorCode::Io, describe(&thrown)));
        }
        let stored = self.cache.borrow().as_ref().and_then(|cache| {
            let info = cache.parts.get(&part.index)?.clone();
            Some((Rc::clone(&cache.store), cache.record.key.clone(), info))
        });
        if let Some((store, key, info)) = stored.filter(|_| !part.is_new)
            && let Ok(Some(blob)) = store.part_blob(&key, &info).await
        {
            return Ok(blob);
        }
        blob_of(&part.bytes)
    }

    /// Frees the header's bytes, once the parts that they are of are in place.
    pub fn drop_head_before(&self, position: u64) {
        if u64::from(self.head.borrow().length()) <= position {
            self.head.replace(Uint8Array::new_with_length(0));
        }
    }

    /// Bytes received over the network.
    pub fn network_bytes(&self) -> u64 {
        match &self.origin {
            Origin::Http(http) => http.received(),
            Origin::Local(_) => 0,
        }
    }

    /// Bytes that came out of storage.
    pub fn cache_bytes(&self) -> u64 {
        self.from_cache.get()
    }

    /// Whether the server has another file now than the one whose parts are stored.
    pub fn changed(&self) -> bool {
        matches!(&self.origin, Origin::Http(http) if http.changed())
    }

    /// Stops all requests.
    pub fn cancel(&self) {
        if let Origin::Http(http) = &self.origin {
            http.cancel();
        }
    }
}

/// Bytes that the browser keeps, for other workers to read.
pub(super) fn blob_of(bytes: &Uint8Array) -> Result<Blob> {
    Blob::new_with_u8_array_sequence(&js_sys::Array::of1(bytes))
        .map_err(|thrown| Error::new(ErrorCode::OutOfMemory, describe(&thrown)))
}

/// Bytes that this site may still store, as far as the browser tells. An estimate: a full disk shows when it is full.
pub(super) async fn storage_room() -> Option<f64> {
    let scope: web_sys::WorkerGlobalScope = js_sys::global().dyn_into().ok()?;
    let storage = Reflect::get(&scope.navigator(), &"storage".into()).ok()?;
    let storage: web_sys::StorageManager = storage.dyn_into().ok()?;
    let estimate = JsFuture::from(storage.estimate().ok()?).await.ok()?;
    let number = |name: &str| Reflect::get(&estimate, &name.into()).ok()?.as_f64();
    Some(number("quota")? - number("usage")?)
}
