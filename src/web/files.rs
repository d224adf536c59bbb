//! All files of a model: GGUF files, or what a Hugging Face folder holds, at addresses or chosen by the user.
//!
//! Principal type: [`Files`]. Must not know backends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use js_sys::{Array, Reflect, Uint8Array};
use serde::Deserialize;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::Blob;

use super::bundle::Bundle;
use super::fetch::HttpFile;
use super::file::{ModelFile, blob_of};
use super::origin::Origin;
use super::protocol::object;
use super::report::Reporter;
use super::resolve::Resolver;
use super::shard::LoadShard;
use super::store::{Store, read_blob};
use super::stored::storage_room;
use super::task::{describe, sha256_hex};
use crate::engine::{ModelFiles, ModelFolder, open_files};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::gguf::shard_names;
use crate::weights::{ByteSource, Checkpoint};

/// What a file must be, as far as the page knows: from a manifest, or what a hub says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// SHA-256 of the whole file, in lower-case hex.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Of each part; of the last one, up to the end of the last tensor.
    #[serde(default)]
    pub parts: Vec<String>,
    /// Where the last tensor ends; with `parts`.
    #[serde(default)]
    pub data_end: u64,
}

/// Where a model is.
pub enum Place {
    /// A GGUF file behind a URL; of a model in several files, any one.
    Url(String),
    /// The folder behind a URL that ends with a slash.
    Folder(String),
    /// Files behind URLs, by name.
    Urls(Vec<(String, String)>),
    /// Local files by name.
    Blobs(Vec<(String, Blob)>),
}

impl Place {
    /// Where the file `name` is, unless that is local.
    fn url(&self, name: &str) -> Option<String> {
        match self {
            Place::Url(url) => {
                let (before, own, after) = parts_of(url);
                Some(if name == own { url.clone() } else { format!("{before}{name}{after}") })
            }
            Place::Folder(url) => Some(format!("{url}{name}")),
            Place::Urls(urls) => urls.iter().find(|(other, _)| other == name).map(|(_, url)| url.clone()),
            Place::Blobs(_) => None,
        }
    }

    /// What the model is called in storage when the page does not say: an address without query (signatures expire), the
    /// same whichever of a model's files comes first.
    fn key(&self) -> String {
        match self {
            Place::Url(url) => {
                let first = shard_names(parts_of(url).1).and_then(|names| self.url(&names[0]));
                without_query(first.as_ref().unwrap_or(url)).to_owned()
            }
            Place::Folder(url) => without_query(url).to_owned(),
            Place::Urls(urls) => {
                let config = urls.iter().find(|(name, _)| name == "config.json");
                let folder = config.map(|(_, url)| parts_of(url).0.to_owned());
                let first = || urls.iter().map(|(_, url)| without_query(url)).min().unwrap_or_default();
                folder.unwrap_or_else(|| first().to_owned())
            }
            Place::Blobs(_) => String::new(),
        }
    }
}

/// The URL without query and fragment.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// A URL cut around the last segment of its path.
fn parts_of(url: &str) -> (&str, &str, &str) {
    let path = without_query(url);
    let start = path.rfind('/').map_or(0, |slash| slash + 1);
    (&url[..start], &path[start..], &url[path.len()..])
}

/// The files of a model that is being loaded.
pub struct Files {
    place: Place,
    headers: Vec<(String, String)>,
    resolver: Option<Resolver>,
    cache: bool,
    /// What the page calls the model in storage.
    cache_key: Option<String>,
    expected: BTreeMap<String, Expected>,
    reporter: Rc<Reporter>,
    /// In the order of the [`Checkpoint`].
    open: RefCell<Vec<Rc<ModelFile>>>,
    store: RefCell<Option<Rc<Store>>>,
    /// The small files of a folder at an address.
    bundle: Bundle,
    /// Bytes of small files that came over the network.
    small_bytes: Cell<u64>,
    cancelled: Cell<bool>,
}

/// `[{ name, <property> }]`, as the page sends several files; `convert` takes the property.
/// # Errors
/// `InvalidRequest`.
pub fn named<T>(
    files: &JsValue,
    property: &str,
    convert: impl Fn(JsValue) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let named = |entry: JsValue| {
        let get = |name: &str| Reflect::get(&entry, &name.into()).ok();
        Some((get("name")?.as_string()?, convert(get(property)?)?))
    };
    let entries = files.dyn_ref::<Array>().map(|files| files.iter().map(named).collect::<Option<Vec<_>>>());
    entries.flatten().ok_or_else(|| {
        let message = format!("a source of several files needs a list of {{ name, {property} }}");
        Error::new(ErrorCode::InvalidRequest, message).at("source.files")
    })
}

impl Files {
    /// Nothing is read yet. Files are kept in storage where `cache`, under a key of the place unless one is given.
    pub fn new(
        place: Place,
        headers: Vec<(String, String)>,
        cache: bool,
        cache_key: Option<String>,
        reporter: &Rc<Reporter>,
    ) -> Self {
        let cache = cache && !matches!(place, Place::Blobs(_));
        let reporter = Rc::clone(reporter);
        let (open, store, bundle, small_bytes) = Default::default();
        Self {
            place,
            headers,
            resolver: None,
            cache,
            cache_key,
            expected: BTreeMap::new(),
            reporter,
            open,
            store,
            bundle,
            small_bytes,
            cancelled: Cell::new(false),
        }
    }

    /// The same, with what its files must be, by name.
    pub fn expecting(mut self, expected: BTreeMap<String, Expected>) -> Self {
        self.expected = expected;
        self
    }

    /// The same, with who to ask when an address is refused.
    pub fn asking(mut self, resolver: Option<Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Reads everything about the model but its weights.
    /// # Errors
    /// What the headers, the configuration and the origin say.
    pub async fn model(&self) -> Result<Checkpoint> {
        if self.cache
            && self.is_folder()
            && let Err(error) = async { self.bundle.load(&*self.store().await?, &self.key()).await }.await
        {
            self.reporter.warn_not_kept(&error);
        }
        let which = match &self.place {
            Place::Url(url) => ModelFiles::Gguf(parts_of(url).1.to_owned()),
            Place::Folder(_) => ModelFiles::Folder,
            Place::Urls(_) | Place::Blobs(_) => ModelFiles::Chosen(self.names()),
        };
        Ok(open_files(&Folder(self), which).await?.1)
    }

    /// Begins the load proper: the files are those of the model `name`, up to `data_ends`. Other models make way where
    /// they may (`evict`).
    pub async fn begin(&self, name: &str, data_ends: &[u64], evict: bool) {
        let files = self.all();
        if self.is_cached()
            && let Err(error) = self.make_room(self.missing(data_ends), evict).await
        {
            files.iter().for_each(|file| file.leave_cache());
            return self.reporter.warn_not_kept(&error);
        }
        for (file, data_end) in files.iter().zip(data_ends) {
            file.begin(name, *data_end, evict).await;
        }
        if self.cache
            && self.is_folder()
            && let Err(error) =
                async { self.bundle.save(&*self.store().await?, &self.key(), name).await }.await
        {
            self.reporter.warn_not_kept(&error);
        }
    }

    /// Bytes that storage lacks of files that end at `data_ends`.
    pub fn missing(&self, data_ends: &[u64]) -> u64 {
        self.all().iter().zip(data_ends).map(|(file, end)| file.missing(*end)).sum()
    }

    /// Sees to it that `missing` bytes can be stored.
    async fn make_room(&self, missing: u64, evict: bool) -> Result<()> {
        let Some(room) = storage_room().await.filter(|room| *room < missing as f64) else { return Ok(()) };
        // What no model needs goes first, then other models; browsers count what was just removed for a while, so what
        // was freed is added instead of asked for again.
        let store = self.store().await?;
        store.collect().await?;
        let key = self.key();
        let freed = match evict {
            true => store.evict(missing - room.max(0.0) as u64, &key).await?,
            false => 0,
        };
        if room + freed as f64 >= missing as f64 {
            return Ok(());
        }
        let others = store.list().await?;
        let others = others.iter().filter(|model| model.is_removable(&key));
        let mib = |bytes: f64| (bytes / 1048576.0) as u64;
        let message = format!(
            "the browser has room for {} MiB more of this site's data, the model needs {} MiB; the other models here \
             take {} MiB: delete some, or set the option `evict`",
            mib(room),
            missing >> 20,
            mib(others.map(|model| model.bytes_stored as f64).sum())
        );
        Err(Error::new(ErrorCode::QuotaExceeded, message))
    }

    /// What other workers need to read the same headers, without how many they are and what is asked of the model. The bytes
    /// are in Blobs, of which workers get references.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn description(&self) -> Result<LoadShard> {
        let entry = |name: &str, blob: Blob| object([("name", name.into()), ("blob", blob.into())]);
        let of_bytes = |name: &str, bytes: &Uint8Array| Ok(entry(name, blob_of(bytes)?));
        let small: Array = match &self.place {
            Place::Blobs(blobs) => blobs.iter().map(|(name, blob)| entry(name, blob.clone())).collect(),
            _ => self.bundle.all().iter().map(|(name, file)| of_bytes(name, file)).collect::<Result<_>>()?,
        };
        let all = self.all();
        let heads = all.iter().map(|file| {
            let size = file.size().map_or(String::new(), |size| size.to_string());
            of_bytes(&size, &file.head())
        });
        let heads: Array = heads.collect::<Result<_>>()?;
        let gguf = match &self.place {
            Place::Url(url) => Some(parts_of(url).1.to_owned()),
            _ => None,
        };
        let listed = matches!(self.place, Place::Urls(_) | Place::Blobs(_)).then(|| self.names());
        let (count, least, context_length, quantize, kv_cache) = Default::default();
        let (small, heads) = (small.into(), heads.into());
        Ok(LoadShard { count, least, context_length, quantize, kv_cache, gguf, listed, small, heads })
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
        self.cancelled.set(true);
        self.all().iter().for_each(|file| file.cancel());
    }

    /// Whether all that was read so far is of no use.
    pub fn must_begin_anew(&self) -> bool {
        self.all().iter().any(|file| file.must_begin_anew())
    }

    /// Bytes received over the network.
    pub fn network_bytes(&self) -> u64 {
        self.small_bytes.get() + self.all().iter().map(|file| file.network_bytes()).sum::<u64>()
    }

    /// Bytes that came out of storage.
    pub fn cache_bytes(&self) -> u64 {
        self.all().iter().map(|file| file.cache_bytes()).sum()
    }

    /// Whether storage takes part in this load, for every file.
    pub fn is_cached(&self) -> bool {
        self.all().iter().all(|file| file.is_cached())
    }

    /// Whether storage takes part, for who has no other use of the files.
    /// # Errors
    /// Why not.
    pub fn must_be_cached(&self) -> Result<()> {
        if self.cache && self.is_cached() {
            return Ok(());
        }
        let message = "only models at an address can be downloaded into this browser's storage";
        Err(self.reporter.take_excused().unwrap_or_else(|| Error::new(ErrorCode::InvalidRequest, message)))
    }

    /// The load is done: all parts of all files are in place.
    pub async fn end(&self) {
        for file in self.all() {
            file.finish().await;
        }
    }

    /// Removes what is stored of the files that have changed, and what was said about them.
    pub async fn discard(&self) {
        for file in self.all() {
            if file.changed() {
                file.discard().await;
            }
        }
        if self.cache
            && self.is_folder()
            && let Err(error) = async { self.store().await?.delete_file(&self.key()).await }.await
        {
            self.reporter.warn_of(&error, "the old version of the model stays in this browser");
        }
    }

    /// Storage, opened once.
    async fn store(&self) -> Result<Rc<Store>> {
        let open = self.store.borrow().clone();
        match open {
            Some(store) => Ok(store),
            None => {
                let store = Store::open().await?;
                self.store.replace(Some(Rc::clone(&store)));
                Ok(store)
            }
        }
    }

    /// Whether there are small files beside the weights.
    fn is_folder(&self) -> bool {
        match &self.place {
            Place::Folder(_) => true,
            Place::Urls(urls) => urls.iter().any(|(name, _)| name == "config.json"),
            Place::Url(_) | Place::Blobs(_) => false,
        }
    }

    /// Names of the files that were listed.
    fn names(&self) -> Vec<String> {
        match &self.place {
            Place::Urls(urls) => urls.iter().map(|(name, _)| name.clone()).collect(),
            Place::Blobs(blobs) => blobs.iter().map(|(name, _)| name.clone()).collect(),
            Place::Url(_) | Place::Folder(_) => Vec::new(),
        }
    }

    /// What the model is called in storage.
    fn key(&self) -> String {
        self.cache_key.clone().unwrap_or_else(|| self.place.key())
    }

    /// What the file `name` at `url` is called in storage.
    fn file_key(&self, name: &str, url: &str) -> String {
        match &self.cache_key {
            None => without_query(url).to_owned(),
            Some(key) => match &self.place {
                Place::Url(url) if parts_of(url).1 == name => key.clone(),
                _ => format!("{}/{name}", key.trim_end_matches('/')),
            },
        }
    }

    async fn http(&self, name: &str, url: &str) -> Result<Rc<ModelFile>> {
        let counted = Rc::clone(&self.reporter);
        let on_bytes = move |bytes| counted.add(bytes);
        let (resolver, headers) = (self.resolver.clone(), self.headers.clone());
        let origin = HttpFile::new(url.to_owned(), resolver, headers, !self.cache, on_bytes)?;
        let expected = self.expected.get(name).cloned().unwrap_or_default();
        let file = self.add(Origin::Http(origin), expected)?;
        if self.cache {
            match self.store().await {
                Ok(store) => file.use_cache(&store, &self.file_key(name, url), &self.key(), url).await,
                Err(error) => self.reporter.warn_not_kept(&error),
            }
        }
        Ok(file)
    }

    fn add(&self, origin: Origin, expected: Expected) -> Result<Rc<ModelFile>> {
        if self.cancelled.get() {
            return Err(Error::new(ErrorCode::Aborted, "the download was stopped"));
        }
        let file = Rc::new(ModelFile::new(origin, expected, Rc::clone(&self.reporter)));
        self.open.borrow_mut().push(Rc::clone(&file));
        Ok(file)
    }

    /// All of a small file at an address; `None` where the server has none. What storage has of it is not asked for again.
    async fn small(&self, name: &str, url: String) -> Result<Option<Vec<u8>>> {
        if let Some(found) = self.bundle.get(name) {
            return Ok(found);
        }
        if self.cancelled.get() {
            return Err(Error::new(ErrorCode::Aborted, "the download was stopped"));
        }
        let (resolver, headers) = (self.resolver.clone(), self.headers.clone());
        let file = HttpFile::new(url, resolver, headers, !self.cache, |_| ())?;
        let found = file.read_all().await?;
        self.small_bytes.set(self.small_bytes.get() + file.received());
        let expected = self.expected.get(name).and_then(|expected| expected.sha256.as_ref());
        if let (Some(expected), Some(bytes)) = (expected, &found)
            && sha256_hex(&Uint8Array::from(bytes.as_slice())).await != *expected
        {
            let message = format!("{name} is not the file that its hash says; it is damaged, or another one");
            return Err(Error::new(ErrorCode::Integrity, message).at(name));
        }
        self.bundle.add(name, found.clone());
        Ok(found)
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
        let listed = matches!(self.0.place, Place::Urls(_) | Place::Blobs(_));
        Ok(listed.then(|| self.0.names()))
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if let Some(url) = self.0.place.url(name) {
            return self.0.small(name, url).await;
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
        if let Some(url) = self.0.place.url(name) {
            return Ok(SharedFile(self.0.http(name, &url).await?));
        }
        match self.blob(name) {
            Some(blob) => Ok(SharedFile(self.0.add(Origin::Local(blob.clone()), Expected::default())?)),
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
