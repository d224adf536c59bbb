//! Bytes of a model's files on their way into a backend.
//!
//! Principal type: [`Uploader`]. Must not know where the bytes come from.

use std::ops::Range;

use js_sys::Uint8Array;
use web_sys::Blob;

use super::file::Part;
use super::store::read_blob;
use super::task::describe;
use crate::backend::{AnyBackend, Backend};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::{Assembler, Piece, Sink, WeightMap};

/// Bytes copied into wasm memory at a time on the CPU path.
const SLICE_BYTES: usize = 1 << 20;
/// Bytes read of a Blob at least: small weights stand side by side.
const WINDOW_BYTES: usize = 1 << 16;

/// Hands parts to the backend: what the GPU can take as it is goes straight from the JS array, everything else
/// through a small window into wasm memory.
pub(super) struct Uploader<'a> {
    assembler: Assembler<'a>,
    weights: &'a WeightMap,
    slice: Vec<u8>,
}

impl<'a> Uploader<'a> {
    /// Nothing has come yet.
    pub(super) fn new(weights: &'a WeightMap) -> Self {
        Uploader { assembler: Assembler::new(weights), weights, slice: Vec::new() }
    }

    /// All of a part.
    pub(super) fn upload(&mut self, backend: &mut AnyBackend, file: usize, part: &Part) -> Result<()> {
        for mut piece in self.weights.pieces(file, part.range.clone()) {
            #[cfg(feature = "gpu")]
            if matches!(backend, AnyBackend::Gpu(_)) {
                let (lead, n) = self.assembler.straight(&piece);
                self.through(backend, part, &piece, lead)?;
                piece = piece.skip(lead);
                if let (true, AnyBackend::Gpu(gpu)) = (n > 0, &mut *backend) {
                    let start = piece.range.start as u32;
                    let bytes = part.bytes.subarray(start, start + n as u32);
                    let offset = self.assembler.passed(&piece, n);
                    gpu.upload_js(piece.weight, offset, &bytes)?;
                    piece = piece.skip(n);
                }
            }
            self.through(backend, part, &piece, piece.range.len())?;
        }
        Ok(())
    }

    /// Of a part that stands in a Blob what the shard keeps: bytes of others' rows are not read, but where they are
    /// converted on the way.
    pub(super) async fn upload_own(
        &mut self,
        backend: &mut AnyBackend,
        file: usize,
        range: Range<u64>,
        blob: Blob,
    ) -> Result<()> {
        let mut window = Window { blob, start: 0, bytes: Uint8Array::new_with_length(0) };
        let weights = self.weights;
        for mut piece in weights.pieces(file, range) {
            let (lead, n) = self.assembler.straight(&piece);
            self.through_window(backend, &mut window, &piece, lead).await?;
            piece = piece.skip(lead);
            if n > 0 {
                let offset = self.assembler.passed(&piece, n);
                let whole = offset..offset + n as u64;
                let wanted = match &*backend {
                    AnyBackend::CpuShard(shard) => shard.wants(piece.weight, whole),
                    _ => whole,
                };
                let skipped = (wanted.start - offset) as usize;
                let from = piece.range.start + skipped;
                let bytes = window.read(from..from + (wanted.end - wanted.start) as usize).await?;
                for (index, slice) in slices(&bytes).enumerate() {
                    let at = wanted.start + (index * SLICE_BYTES) as u64;
                    slice_into(&mut self.slice, &slice);
                    sink(weights, backend)(piece.weight, at, &self.slice)?;
                }
                piece = piece.skip(n);
            }
            self.through_window(backend, &mut window, &piece, piece.range.len()).await?;
        }
        Ok(())
    }

    /// The first `n` bytes of a piece that stands in a Blob, by way of wasm memory.
    async fn through_window(
        &mut self,
        backend: &mut AnyBackend,
        window: &mut Window,
        piece: &Piece,
        n: usize,
    ) -> Result<()> {
        let bytes = window.read(piece.range.start..piece.range.start + n).await?;
        for (index, slice) in slices(&bytes).enumerate() {
            slice_into(&mut self.slice, &slice);
            let mut sink = sink(self.weights, backend);
            let mut piece = piece.skip(index * SLICE_BYTES);
            piece.range.end = piece.range.start + self.slice.len();
            self.assembler.take(&piece, &self.slice, &mut sink)?;
        }
        // A unit may be done without a byte of its own.
        if n == 0 && piece.range.is_empty() {
            self.assembler.take(piece, &[], &mut sink(self.weights, backend))?;
        }
        Ok(())
    }

    /// The first `n` bytes of a piece, by way of wasm memory.
    fn through(&mut self, backend: &mut AnyBackend, part: &Part, piece: &Piece, n: usize) -> Result<()> {
        for start in (0..n).step_by(SLICE_BYTES) {
            let piece = piece.skip(start);
            self.slice.resize((n - start).min(SLICE_BYTES), 0);
            let (from, to) = (piece.range.start, piece.range.start + self.slice.len());
            part.bytes.subarray(from as u32, to as u32).copy_to(&mut self.slice);
            self.assembler.take(&piece, &self.slice, &mut sink(self.weights, backend))?;
        }
        Ok(())
    }

    /// All parts have come.
    pub(super) fn finish(self, backend: &mut AnyBackend) -> Result<()> {
        self.assembler.finish(&mut sink(self.weights, backend))
    }
}

/// Uploads assembled bytes, after a look at their scales.
fn sink<'a>(weights: &'a WeightMap, backend: &'a mut AnyBackend) -> impl Sink + 'a {
    |weight, offset, bytes: &[u8]| {
        weights.check_scales(weight, offset, bytes)?;
        backend.upload(weight, offset, bytes)
    }
}

/// Some bytes of a Blob.
struct Window {
    blob: Blob,
    start: usize,
    bytes: Uint8Array,
}

impl Window {
    async fn read(&mut self, range: Range<usize>) -> Result<Uint8Array> {
        let end = self.start + self.bytes.length() as usize;
        if !range.is_empty() && (range.start < self.start || range.end > end) {
            let unreadable = |thrown| {
                let message = format!("a part of the model cannot be read: {}", describe(&thrown));
                Error::new(ErrorCode::Io, message)
            };
            let end = range.end.max(range.start + WINDOW_BYTES) as f64;
            let slice = self.blob.slice_with_f64_and_f64(range.start as f64, end).map_err(unreadable)?;
            self.bytes = read_blob(&slice).await.map_err(unreadable)?;
            self.start = range.start;
        }
        let from = range.start.saturating_sub(self.start) as u32;
        Ok(self.bytes.subarray(from, from + range.len() as u32))
    }
}

/// Pieces of [`SLICE_BYTES`].
fn slices(bytes: &Uint8Array) -> impl Iterator<Item = Uint8Array> + '_ {
    let step = SLICE_BYTES as u32;
    let starts = (0..bytes.length()).step_by(SLICE_BYTES);
    starts.map(move |start| bytes.subarray(start, bytes.length().min(start + step)))
}

fn slice_into(target: &mut Vec<u8>, slice: &Uint8Array) {
    target.resize(slice.length() as usize, 0);
    slice.copy_to(target);
}
