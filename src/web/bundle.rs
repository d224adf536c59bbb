//! The small files of a Hugging Face folder, kept as one: configuration, tokenizer, templates.
//!
//! Principal type: [`Bundle`]. Which files the server lacks is kept, too, so that the next visit asks for nothing.
//! Must not know what the files mean.

use std::cell::{Cell, RefCell};

use js_sys::Uint8Array;

use super::store::{ModelRecord, PartInfo, Store};
use super::task::sha256_hex;
use crate::error::Result;
use crate::weights::PART_BYTES;

/// Length of a file that is not there.
const ABSENT: u64 = u64::MAX;

/// A file's name and content; `None` for one that is known not to be there.
type Small = (String, Option<Vec<u8>>);

/// Small files.
#[derive(Default)]
pub struct Bundle {
    files: RefCell<Vec<Small>>,
    /// Whether there is more than storage has.
    is_new: Cell<bool>,
}

impl Bundle {
    /// Takes what storage has under `key`. What is damaged there counts as absent.
    /// # Errors
    /// `Storage` when the database fails.
    pub async fn load(&self, store: &Store, key: &str) -> Result<()> {
        let mut bytes = Vec::new();
        for info in store.parts(key).await? {
            let Some(part) = store.read_part(&info).await? else { return Ok(()) };
            if sha256_hex(&part.bytes).await != info.sha256 {
                return Ok(());
            }
            bytes.extend(part.bytes.to_vec());
        }
        if let Some(files) = decode(&bytes) {
            self.files.replace(files);
        }
        Ok(())
    }

    /// The file `name`, if anything is known of it.
    pub fn get(&self, name: &str) -> Option<Option<Vec<u8>>> {
        self.files.borrow().iter().find(|(other, _)| other == name).map(|(_, file)| file.clone())
    }

    /// All files that there are.
    pub fn all(&self) -> Vec<(String, Uint8Array)> {
        let files = self.files.borrow();
        let found = files.iter().filter_map(|(name, file)| Some((name, file.as_deref()?)));
        found.map(|(name, file)| (name.clone(), Uint8Array::from(file))).collect()
    }

    /// Adds what the server said about `name`.
    pub fn add(&self, name: &str, file: Option<Vec<u8>>) {
        self.files.borrow_mut().push((name.to_owned(), file));
        self.is_new.set(true);
    }

    /// Stores the files of the model `name`, unless that is done.
    /// # Errors
    /// `Storage` or `QuotaExceeded`.
    pub async fn save(&self, store: &Store, key: &str, name: &str) -> Result<()> {
        if !self.is_new.replace(false) {
            return Ok(());
        }
        let bytes = encode(&self.files.borrow());
        let old = store.record(key).await?.unwrap_or_default();
        // The parts of an older version may be more.
        store.delete_file(key).await?;
        let mut record = ModelRecord { key: key.to_owned(), url: key.to_owned(), ..old };
        record.name = name.to_owned();
        record.data_end = bytes.len() as u64;
        record.last_used = js_sys::Date::now();
        record.clean = false;
        // First, as with weights: parts without a record are anybody's to remove.
        store.put_record(&record).await?;
        for (index, part) in (0..).zip(bytes.chunks(PART_BYTES as usize)) {
            let part = Uint8Array::from(part);
            let info = PartInfo { index, len: u64::from(part.length()), sha256: sha256_hex(&part).await };
            store.put_part(key, &info, &part).await?;
        }
        record.clean = true;
        store.put_record(&record).await
    }
}

/// Of each file, the length of its name and its own in 8 bytes each, then both.
fn encode(files: &[Small]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, file) in files {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(file.as_ref().map_or(ABSENT, |file| file.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(file.iter().flatten());
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Small>> {
    let mut files = Vec::new();
    while !bytes.is_empty() {
        let ([name, file], rest) = bytes.split_first_chunk::<16>().map(|(lengths, rest)| {
            let (a, b) = lengths.split_at(8);
            ([a, b].map(|n| n.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))), rest)
        })?;
        let (name, rest) = rest.split_at_checked(usize::try_from(name).ok()?)?;
        let len = if file == ABSENT { 0 } else { usize::try_from(file).ok()? };
        let (content, rest) = rest.split_at_checked(len)?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        files.push((name, (file != ABSENT).then(|| content.to_vec())));
        bytes = rest;
    }
    Some(files)
}
