//! What a server's answer says about the file that it is of.
//!
//! Principal types: [`Version`] and [`ContentRange`]. Must not know requests.

use web_sys::Response;

/// Identity of the remote file, as far as the server tells and the page may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Bytes of the whole file.
    pub size: Option<u64>,
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

impl Version {
    /// Whether two answers can be of the same file: nothing that both tell differs.
    pub fn agrees(&self, other: &Version) -> bool {
        fn same<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        same(&self.size, &other.size)
            && same(&self.etag, &other.etag)
            // A CDN's nodes may differ in the date where a tag says that the content is the same.
            && (self.etag.is_some() && self.etag == other.etag || same(&self.last_modified, &other.last_modified))
    }

    /// Adds what `other` knows and `self` does not.
    pub fn learn(&mut self, other: Version) {
        self.size = self.size.or(other.size);
        self.etag = self.etag.take().or(other.etag);
        self.last_modified = self.last_modified.take().or(other.last_modified);
    }
}

/// `Content-Range: bytes 0-99/1000`, with `end` past the last byte.
pub struct ContentRange {
    /// First byte.
    pub start: u64,
    /// Past the last byte.
    pub end: u64,
    /// `None` for `*`.
    pub size: Option<u64>,
}

impl ContentRange {
    /// Reads the header; `None` for one that makes no sense.
    pub fn parse(value: &str) -> Option<Self> {
        let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let start = first.trim().parse().ok()?;
        let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
        let size = match size.trim() {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        (start < end).then_some(Self { start, end, size })
    }
}

/// A header, if the page may see it.
pub fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).ok().flatten()
}

/// `Content-Length`.
pub fn content_length(response: &Response) -> Option<u64> {
    header(response, "content-length")?.trim().parse().ok()
}
