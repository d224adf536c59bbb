//! A model file as parts: out of this browser's storage where they are there and whole, else from where the file is.
//!
//! Principal type: [`ModelFile`]. Bytes stay in JS arrays. Must not know what the weights are for, nor backends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use js_sys::Uint8Array;
use sha2::{Digest, Sha256};
use web_sys::Blob;

use super::answer::Version;
use super::files::Expected;
use super::origin::Origin;
use super::report::Reporter;
use super::store::{ModelRecord, PartInfo, Store, StoredPart};
use super::task::{describe, hex, sha256_hex, update_sha256};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::PART_BYTES;

/// One in so many stored parts is checked when the last load ended well.
const CHECK_ONE_IN: u32 = 4;
/// Largest integer that JavaScript counts exactly; a file that claims more is no file.
const MAX_SIZE: u64 = (1 << 53) - 1;

/// The stored parts of the model that is being loaded.
struct Cache {
    store: Rc<Store>,
    record: ModelRecord,
    /// Parts that were there when the load began and have not turned out bad.
    parts: BTreeMap<u32, PartInfo>,
    /// Those of them that were stored with another file: noted with this one once it has a record.
    linked: Vec<PartInfo>,
    /// What parts were that turned out bad, and must be when they are fetched again.
    lost: BTreeMap<u32, String>,
    /// Whether other models may be removed to make room.
    evict: bool,
}

/// A part that is in place.
#[derive(Clone)]
pub struct Part {
    /// Position in the file, in units of [`PART_BYTES`].
    pub index: u32,
    /// Which bytes of the file these are.
    pub range: Range<u64>,
    /// The bytes.
    pub bytes: Uint8Array,
    /// Whether storage lacks it.
    pub is_new: bool,
    /// Where the browser keeps them.
    blob: Option<Blob>,
    /// Their SHA-256, where it had to be looked at.
    sha256: Option<String>,
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
    /// The server has another file than the one whose parts are stored, as a part shows that was fetched again.
    is_other: Cell<bool>,
    /// The header was damaged on its way, and has been believed.
    is_damaged: Cell<bool>,
}

impl ModelFile {
    /// A file that is read where it is.
    pub fn new(origin: Origin, expected: Expected, reporter: Rc<Reporter>) -> Self {
        let head = RefCell::new(Uint8Array::new_with_length(0));
        // Parts that are compared one by one need not be compared together.
        let whole = expected.sha256.is_some() && expected.parts.is_empty();
        let hash = RefCell::new(whole.then(Sha256::new));
        let (cache, end, from_cache, is_other, is_damaged) = Default::default();
        Self { origin, cache, head, expected, hash, end, reporter, from_cache, is_other, is_damaged }
    }

    /// Takes the stored parts of `key`, a file of the model `model`, into account. Storage that fails is told of and left
    /// alone.
    pub async fn use_cache(&self, store: &Rc<Store>, key: &str, model: &str, url: &str) {
        match self.open_cache(store, key, model, url).await {
            Ok(cache) => {
                // Parts that are known by their hashes need no server to vouch for them.
                let known = !self.expected.parts.is_empty()
                    || (self.expected.sha256.is_some() && self.hash.borrow().is_none());
                if let Origin::Http(http) = &self.origin
                    && !cache.parts.is_empty()
                    && !known
                {
                    let ModelRecord { size, etag, last_modified, .. } = cache.record.clone();
                    http.expect(Version { size, etag, last_modified });
                }
                self.cache.replace(Some(cache));
            }
            Err(error) => self.reporter.warn_not_kept(&error),
        }
    }

    /// What storage has of the model; a first visit finds nothing and is no error.
    async fn open_cache(&self, store: &Rc<Store>, key: &str, model: &str, url: &str) -> Result<Cache> {
        let stored = store.record(key).await?;
        let mut parts = match stored {
            Some(_) => store.parts(key).await?,
            None => Vec::new(),
        };
        let mut linked = Vec::new();
        if !self.expected.parts.is_empty() {
            (parts, linked) = self.expected_parts(store, parts).await?;
        }
        let mut record = stored.unwrap_or_default();
        // Of a file that was compared once, all parts are those that were: none has come since.
        if record.sha256 == self.expected.sha256 && parts.len() as u32 == record.n_parts() {
            self.hash.take();
        }
        record.key = key.to_owned();
        record.model = model.to_owned();
        record.url = url.to_owned();
        let (stored, store, lost) = (parts, Rc::clone(store), BTreeMap::new());
        // Not collected: that would sort first, which takes a page code for each kind of map.
        let mut parts = BTreeMap::new();
        parts.extend(stored.into_iter().chain(linked.iter().cloned()).map(|part| (part.index, part)));
        Ok(Cache { store, record, parts, linked, lost, evict: false })
    }

    /// Of a file whose parts' hashes are known, those that are stored with it, and those that are with another file.
    async fn expected_parts(
        &self,
        store: &Store,
        stored: Vec<PartInfo>,
    ) -> Result<(Vec<PartInfo>, Vec<PartInfo>)> {
        let there = store.hashes().await?;
        let (mut parts, mut linked) = (Vec::new(), Vec::new());
        for (index, sha256) in (0..).zip(&self.expected.parts) {
            let start = u64::from(index) * PART_BYTES;
            let len = self.expected.data_end.saturating_sub(start).min(PART_BYTES);
            match stored.iter().find(|part| part.index == index && part.sha256 == *sha256) {
                Some(part) => parts.push(part.clone()),
                None if there.contains(sha256) => {
                    linked.push(PartInfo { index, len, sha256: sha256.clone() })
                }
                None => {}
            }
        }
        store.hold(linked.iter().map(|part| part.sha256.clone()));
        Ok((parts, linked))
    }

    /// Goes on without storage, and says so.
    fn without_cache(&self, error: &Error) {
        self.cache.take();
        self.reporter.warn_not_kept(error);
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
                Some(part) => part.bytes,
                None => {
                    // Up to a part's end, so that what is read is never more than a part's beginning.
                    let end = wanted.min((u64::from(index) + 1) * PART_BYTES);
                    let target = Uint8Array::new_with_length((end - at) as u32);
                    let n_read = self.origin.read(at, &target, &self.reporter).await?;
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
            Origin::Http(_) => {
                let cache = self.cache.borrow();
                let kept = cache.as_ref().filter(|cache| !cache.parts.is_empty());
                let kept = kept.map(|cache| cache.record.data_end).filter(|end| *end > 0);
                kept.or(self.origin.size())
            }
            Origin::Local(_) => self.origin.size(),
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
        let found =
            self.cache.borrow_mut().as_mut().map(|cache| {
                (Rc::clone(&cache.store), cache.record.clone(), std::mem::take(&mut cache.linked))
            });
        let Some((store, mut record, linked)) = found else { return };
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
        match store.link(&marked, &linked).await {
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
        self.origin.digest_rest(self.end.get(), &mut hash, &self.reporter).await?;
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
        self.origin.has_ranges()
    }

    /// Whether its parts can be had again without the network.
    pub fn is_here(&self) -> bool {
        self.is_cached() || matches!(self.origin, Origin::Local(_))
    }

    /// Whether storage takes part.
    pub fn is_cached(&self) -> bool {
        self.cache.borrow().is_some()
    }

    /// Where storage keeps new parts.
    pub fn place(&self) -> Option<&'static str> {
        self.cache.borrow().as_ref()?.store.place()
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
        if in_head < len
            && let Some(StoredPart { blob, bytes }) = self.stored_part(index).await?
        {
            if bytes.length() == len {
                return Ok(Part { index, range, bytes, is_new: false, blob, sha256: None });
            }
            self.forget(index, "has another length than the file now").await;
        }
        // The header's own reads are this part's beginning: no byte is asked for twice.
        let mut bytes = read_before.clone();
        if in_head < len {
            bytes = Uint8Array::new_with_length(len);
            bytes.set(&read_before, 0);
            self.fetch(&range, &bytes, in_head).await?;
        }
        let (mut sound, mut sha256) = self.check(index, &bytes).await;
        if !sound {
            // Once more, in case it was damaged on its way.
            let message = format!("part {index} of the model arrived damaged, and is fetched again");
            self.reporter.warn(ErrorCode::Integrity, message);
            bytes = Uint8Array::new_with_length(len);
            self.fetch(&range, &bytes, 0).await?;
            (sound, sha256) = self.check(index, &bytes).await;
            // A header that was damaged has been believed by now.
            let same = sha256_hex(&bytes.subarray(0, in_head)).await == sha256_hex(&read_before).await;
            if !sound || !same {
                self.is_damaged.set(sound);
                self.is_other.set(!sound && self.expected.parts.is_empty());
                let message =
                    format!("part {index} of the model is not the one that it should be; try again");
                return Err(Error::new(ErrorCode::Integrity, message));
            }
        }
        let is_new = in_head < len || !self.is_stored(index);
        Ok(Part { index, range, bytes, is_new, blob: None, sha256 })
    }

    /// Fills `target`, the bytes at `range`, from byte `from` on.
    async fn fetch(&self, range: &Range<u64>, target: &Uint8Array, from: u32) -> Result<()> {
        let start = range.start + u64::from(from);
        let target = target.subarray(from, target.length());
        let n_read = self.origin.read(start, &target, &self.reporter).await?;
        let at = start + u64::from(n_read);
        if at < range.end {
            let message = format!("the file ends at byte {at}, within its tensors; it is incomplete");
            return Err(Error::new(ErrorCode::Truncated, message));
        }
        Ok(())
    }

    /// Whether a part is as the manifest says, or as it was when it was stored; and its hash, if there is either.
    async fn check(&self, index: u32, bytes: &Uint8Array) -> (bool, Option<String>) {
        let lost = || self.cache.borrow().as_ref().and_then(|cache| cache.lost.get(&index).cloned());
        let Some(wanted) = self.expected.parts.get(index as usize).cloned().or_else(lost) else {
            return (true, None);
        };
        let sha256 = sha256_hex(bytes).await;
        (sha256 == wanted, Some(sha256))
    }

    /// A stored part, checked as the rules say; `None` when there is none that can be used.
    async fn stored_part(&self, index: u32) -> Result<Option<StoredPart>> {
        let found = self.cache.borrow().as_ref().and_then(|cache| {
            let info = cache.parts.get(&index)?.clone();
            let record = &cache.record;
            let sampled =
                index.is_multiple_of(CHECK_ONE_IN) || index % CHECK_ONE_IN == record.loads % CHECK_ONE_IN;
            let check = !record.clean || record.loads == 0 || index == 0 || sampled;
            Some((Rc::clone(&cache.store), info, check))
        });
        let Some((store, info, check)) = found else { return Ok(None) };
        let part = match store.read_part(&info).await {
            Ok(part) => part,
            Err(error) => {
                self.without_cache(&error);
                return Ok(None);
            }
        };
        // Browsers notice a Blob that is gone or cut short, but not one whose bytes have changed.
        let fault = match &part {
            None => Some("cannot be read"),
            Some(part) if u64::from(part.bytes.length()) != info.len => Some("is cut short"),
            Some(part) if check && sha256_hex(&part.bytes).await != info.sha256 => Some("is damaged"),
            Some(_) => None,
        };
        if let Some(fault) = fault {
            self.forget(index, fault).await;
            return Ok(None);
        }
        self.from_cache.set(self.from_cache.get() + info.len);
        self.reporter.add(info.len);
        Ok(part)
    }

    /// Drops a stored part that is of no use; it will be fetched again by itself.
    async fn forget(&self, index: u32, fault: &str) {
        let found = self.cache.borrow_mut().as_mut().and_then(|cache| {
            let info = cache.parts.remove(&index)?;
            cache.lost.insert(index, info.sha256.clone());
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
    pub async fn keep(self: Rc<Self>, Part { index, bytes, sha256, .. }: Part) {
        let found = self.cache.borrow().as_ref().map(|cache| {
            let record = &cache.record;
            (Rc::clone(&cache.store), record.key.clone(), record.model().to_owned(), cache.evict)
        });
        let Some((store, key, model, evict)) = found else { return };
        let sha256 = match sha256 {
            Some(sha256) => sha256,
            None => sha256_hex(&bytes).await,
        };
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

    /// Removes all that is stored of this model: the server has another file now. Parts that are known by their hashes
    /// stay, and the next try takes those that are as they should be.
    pub async fn discard(&self) {
        let cache = self.cache.take();
        if let Some(cache) = cache
            && self.expected.parts.is_empty()
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
    pub fn blob(&self, part: &Part) -> Result<Blob> {
        let kept = || part.blob.clone().map_or_else(|| blob_of(&part.bytes), Ok);
        self.origin.slice(&part.range).unwrap_or_else(kept)
    }

    /// Frees the header's bytes, once the parts that they are of are in place.
    pub fn drop_head_before(&self, position: u64) {
        if u64::from(self.head.borrow().length()) <= position {
            self.head.replace(Uint8Array::new_with_length(0));
        }
    }

    /// Bytes received over the network.
    pub fn network_bytes(&self) -> u64 {
        self.origin.received()
    }

    /// Bytes that came out of storage.
    pub fn cache_bytes(&self) -> u64 {
        self.from_cache.get()
    }

    /// Whether the server has another file now than the one whose parts are stored.
    pub fn changed(&self) -> bool {
        self.is_other.get() || self.origin.changed()
    }

    /// Whether all that was read of the file so far is of no use.
    pub fn must_begin_anew(&self) -> bool {
        self.is_damaged.get() || self.changed()
    }

    /// Stops all requests.
    pub fn cancel(&self) {
        self.origin.cancel();
    }
}

/// Bytes that the browser keeps, for other workers to read.
pub(super) fn blob_of(bytes: &Uint8Array) -> Result<Blob> {
    Blob::new_with_u8_array_sequence(&js_sys::Array::of1(bytes))
        .map_err(|thrown| Error::new(ErrorCode::OutOfMemory, describe(&thrown)))
}
