//! All files of a model: one GGUF, or what a Hugging Face folder holds, at an address or chosen by the user.
//!
//! Principal type: [`Files`]. Must not know backends.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use js_sys::{Array, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::Blob;

use super::fetch::HttpFile;
use super::file::{ModelFile, Origin};
use super::report::Reporter;
use super::store::read_blob;
use super::task::describe;
use crate::engine::{ModelFolder, open_folder};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::{ByteSource, Checkpoint};

/// Where a model is.
pub enum Place {
    /// One file behind a URL; the second is its key in storage.
    Url(String, String),
    /// The folder behind a URL that ends with a slash; the second is what its files' keys begin with.
    Folder(String, String),
    /// One local file.
    Blob(Blob),
    /// Local files by name.
    Blobs(Vec<(String, Blob)>),
}

/// The files of a model that is being loaded.
pub struct Files {
    place: Place,
    headers: Vec<(String, String)>,
    cache: bool,
    reporter: Rc<Reporter>,
    /// In the order of the [`Checkpoint`].
    open: RefCell<Vec<Rc<ModelFile>>>,
}

/// `[{ name, blob }]`, as the page sends a choice of files.
/// # Errors
/// `InvalidRequest`.
pub fn named_blobs(files: &JsValue) -> Result<Vec<(String, Blob)>> {
    let named = |entry: JsValue| {
        let get = |name: &str| Reflect::get(&entry, &name.into()).ok();
        Some((get("name")?.as_string()?, get("blob")?.dyn_into().ok()?))
    };
    let entries = files.dyn_ref::<Array>().map(|files| files.iter().map(named).collect::<Option<Vec<_>>>());
    entries.flatten().ok_or_else(|| {
        let message = "a source of the kind files needs a list of { name, blob }";
        Error::new(ErrorCode::InvalidRequest, message).at("source.files")
    })
}

impl Files {
    /// Nothing is read yet.
    pub fn new(place: Place, headers: Vec<(String, String)>, cache: bool, reporter: &Rc<Reporter>) -> Self {
        Self { place, headers, cache, reporter: Rc::clone(reporter), open: RefCell::default() }
    }

    /// Reads everything about the model but its weights.
    /// # Errors
    /// What the headers, the configuration and the origin say.
    pub async fn model(&self) -> Result<Checkpoint> {
        match &self.place {
            Place::Url(url, key) => {
                let file = self.http(url, key).await?;
                Ok(file.header().await?.into())
            }
            Place::Blob(blob) => {
                let file = self.add(Origin::Local(blob.clone()));
                Ok(file.header().await?.into())
            }
            Place::Blobs(blobs) if blobs.len() == 1 && !blobs[0].0.ends_with(".safetensors") => {
                let file = self.add(Origin::Local(blobs[0].1.clone()));
                Ok(file.header().await?.into())
            }
            Place::Folder(..) | Place::Blobs(_) => Ok(open_folder(&Folder(self)).await?.1),
        }
    }

    /// File `index` of the model.
    /// # Panics
    /// When there is no such file.
    pub fn file(&self, index: usize) -> Rc<ModelFile> {
        Rc::clone(&self.open.borrow()[index])
    }

    /// All files that have been opened.
    pub fn all(&self) -> Vec<Rc<ModelFile>> {
        self.open.borrow().clone()
    }

    /// Stops all requests.
    pub fn cancel(&self) {
        self.all().iter().for_each(|file| file.cancel());
    }

    /// Whether the server has another file now than one whose parts are stored.
    pub fn changed(&self) -> bool {
        self.all().iter().any(|file| file.changed())
    }

    /// Bytes received over the network.
    pub fn network_bytes(&self) -> u64 {
        self.all().iter().map(|file| file.network_bytes()).sum()
    }

    /// Bytes that came out of storage.
    pub fn cache_bytes(&self) -> u64 {
        self.all().iter().map(|file| file.cache_bytes()).sum()
    }

    /// Whether storage takes part in this load, for every file.
    pub fn is_cached(&self) -> bool {
        self.all().iter().all(|file| file.is_cached())
    }

    /// The load is done: all parts of all files are in place.
    pub async fn end(&self) {
        for file in self.all() {
            file.end().await;
        }
    }

    /// Removes what is stored of the files that have changed.
    pub async fn discard(&self) {
        for file in self.all() {
            if file.changed() {
                file.discard().await;
            }
        }
    }

    async fn http(&self, url: &str, key: &str) -> Result<Rc<ModelFile>> {
        let counted = Rc::clone(&self.reporter);
        let on_bytes = move |bytes| counted.add(bytes);
        let origin = HttpFile::new(url.to_owned(), self.headers.clone(), !self.cache, on_bytes)?;
        let file = self.add(Origin::Http(origin));
        if self.cache {
            file.use_cache(key, url).await;
        }
        Ok(file)
    }

    fn add(&self, origin: Origin) -> Rc<ModelFile> {
        let file = Rc::new(ModelFile::new(origin, Rc::clone(&self.reporter)));
        self.open.borrow_mut().push(Rc::clone(&file));
        file
    }
}

/// The files as a folder.
struct Folder<'a>(&'a Files);

impl Folder<'_> {
    fn blob(&self, name: &str) -> Option<&Blob> {
        let Place::Blobs(blobs) = &self.0.place else { return None };
        blobs.iter().find(|(other, _)| other == name).map(|(_, blob)| blob)
    }
}

impl ModelFolder for Folder<'_> {
    type File = SharedFile;

    async fn list(&self) -> Result<Option<Vec<String>>> {
        let Place::Blobs(blobs) = &self.0.place else { return Ok(None) };
        Ok(Some(blobs.iter().map(|(name, _)| name.clone()).collect()))
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if let Place::Folder(url, _) = &self.0.place {
            // The browser's own cache keeps these: they are small, and storage is for parts of weights.
            let file = HttpFile::new(format!("{url}{name}"), self.0.headers.clone(), true, |_| ())?;
            return file.read_all().await;
        }
        let Some(blob) = self.blob(name) else { return Ok(None) };
        match read_blob(blob).await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(thrown) => {
                let message = format!("the local file cannot be read: {}", describe(&thrown));
                Err(Error::new(ErrorCode::Io, message).at(name))
            }
        }
    }

    async fn open(&self, name: &str) -> Result<SharedFile> {
        if let Place::Folder(url, key) = &self.0.place {
            return Ok(SharedFile(self.0.http(&format!("{url}{name}"), &format!("{key}{name}")).await?));
        }
        match self.blob(name) {
            Some(blob) => Ok(SharedFile(self.0.add(Origin::Local(blob.clone())))),
            None => {
                let message = format!("{name} is not among the chosen files, and the model needs it");
                Err(Error::new(ErrorCode::NotAModel, message).at(name))
            }
        }
    }
}

/// A file whose beginning is read as a header; the same bytes are not asked for again.
pub struct SharedFile(Rc<ModelFile>);

impl ByteSource for SharedFile {
    fn size(&self) -> Option<u64> {
        self.0.size()
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.0.beginning(range).await
    }
}
