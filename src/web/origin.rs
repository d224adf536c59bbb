//! Where a model file's bytes come from: a server, or a file that the page has.
//!
//! Principal type: [`Origin`]. Must not know what is stored of the file.

use std::ops::Range;

use js_sys::Uint8Array;
use sha2::Sha256;
use web_sys::Blob;

use super::fetch::HttpFile;
use super::report::Reporter;
use super::store::read_slice;
use super::task::{describe, update_sha256};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::PART_BYTES;

/// Where a file is.
pub enum Origin {
    /// Behind a URL.
    Http(HttpFile),
    /// A file or Blob of the page.
    Local(Blob),
}

impl Origin {
    /// Bytes from `start` on; fewer than `target` only at the file's end.
    pub(super) async fn read(&self, start: u64, target: &Uint8Array, reporter: &Reporter) -> Result<u32> {
        match self {
            Origin::Http(http) => http.read(start, target).await,
            Origin::Local(blob) => {
                let end = start + u64::from(target.length());
                let unreadable = |thrown| {
                    let message = format!("the local file cannot be read: {}", describe(&thrown));
                    Error::new(ErrorCode::Io, message)
                };
                let bytes = read_slice(blob, start..end).await.map_err(unreadable)?;
                target.set(&bytes, 0);
                reporter.add(u64::from(bytes.length()));
                Ok(bytes.length())
            }
        }
    }

    /// Takes what stands behind byte `at` into a hash: it is of no use but belongs to the file.
    pub(super) async fn digest_rest(
        &self,
        mut at: u64,
        hash: &mut Sha256,
        reporter: &Reporter,
    ) -> Result<()> {
        loop {
            let left = match self.size() {
                Some(size) => size.saturating_sub(at),
                // Only what is read as one stream tells its end by ending.
                None if self.has_ranges() => 0,
                None => PART_BYTES,
            };
            if left == 0 {
                return Ok(());
            }
            let rest = Uint8Array::new_with_length(left.min(PART_BYTES) as u32);
            let n_read = self.read(at, &rest, reporter).await?;
            update_sha256(hash, &rest.subarray(0, n_read));
            if n_read < rest.length() {
                return Ok(());
            }
            at += u64::from(n_read);
        }
    }

    /// Size of the file, as far as its server has told.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Origin::Http(http) => http.version().size,
            Origin::Local(blob) => Some(blob.size() as u64),
        }
    }

    /// Whether a server answers requests for parts, so that several can be made at a time.
    pub(super) fn has_ranges(&self) -> bool {
        matches!(self, Origin::Http(http) if http.has_ranges())
    }

    /// The bytes at `range` without reading them, where that can be.
    pub(super) fn slice(&self, range: &Range<u64>) -> Option<Result<Blob>> {
        let Origin::Local(blob) = self else { return None };
        let slice = blob.slice_with_f64_and_f64(range.start as f64, range.end as f64);
        Some(slice.map_err(|thrown| Error::new(ErrorCode::Io, describe(&thrown))))
    }

    /// Bytes received over the network.
    pub(super) fn received(&self) -> u64 {
        match self {
            Origin::Http(http) => http.received(),
            Origin::Local(_) => 0,
        }
    }

    /// Whether the server has another file now than the one that was expected.
    pub(super) fn changed(&self) -> bool {
        matches!(self, Origin::Http(http) if http.changed())
    }

    /// Stops all requests.
    pub(super) fn cancel(&self) {
        if let Origin::Http(http) = self {
            http.cancel();
        }
    }
}
