//! Bytes of a model's files on their way into a backend.
//!
//! Principal type: [`Uploader`]. Must not know where the bytes come from.

use std::ops::Range;

use js_sys::Uint8Array;
use web_sys::Blob;

use super::store::read_slice;
use super::task::describe;
use crate::backend::cpu::CpuShard;
use crate::backend::{AnyBackend, Backend};
use crate::error::{Error, ErrorCode, Result};
use crate::weights::{Assembler, Piece, Sink, WeightMap};

/// Bytes copied into wasm memory at a time on the CPU path.
const SLICE_BYTES: usize = 1 << 20;
/// Bytes read of a Blob at least: small weights stand side by side.
const WINDOW_BYTES: usize = 1 << 16;

/// Where bytes of weights go.
pub(super) trait Target {
    /// As [`Backend::upload`].
    fn take(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()>;

    /// The smallest range that holds all that is kept of `range`.
    fn wants(&self, _weight: usize, range: Range<u64>) -> Range<u64> {
        range
    }

    /// The GPU's, which takes bytes as they are in JS.
    #[cfg(feature = "gpu")]
    fn gpu(&mut self) -> Option<&mut crate::backend::gpu::GpuBackend> {
        None
    }
}

impl Target for CpuShard {
    fn take(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.upload(weight, offset, bytes)
    }

    fn wants(&self, weight: usize, range: Range<u64>) -> Range<u64> {
        CpuShard::wants(self, weight, range)
    }
}

impl Target for AnyBackend {
    fn take(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.upload(weight, offset, bytes)
    }

    fn wants(&self, weight: usize, range: Range<u64>) -> Range<u64> {
        match self {
            AnyBackend::CpuShard(shard) => shard.wants(weight, range),
            _ => range,
        }
    }

    #[cfg(feature = "gpu")]
    fn gpu(&mut self) -> Option<&mut crate::backend::gpu::GpuBackend> {
        match self {
            AnyBackend::Gpu(gpu) => Some(gpu),
            _ => None,
        }
    }
}

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

    /// What the backend keeps of a part: bytes of other shards' rows are passed over, but where they are converted on the
    /// way.
    pub(super) async fn upload(
        &mut self,
        backend: &mut dyn Target,
        file: usize,
        range: Range<u64>,
        mut window: Window,
    ) -> Result<()> {
        let weights = self.weights;
        for mut piece in weights.pieces(file, range) {
            let (lead, n) = self.assembler.straight(&piece);
            self.through(backend, &mut window, &piece, lead).await?;
            piece = piece.skip(lead);
            if n > 0 {
                self.straight(backend, &mut window, &piece, n).await?;
                piece = piece.skip(n);
            }
            self.through(backend, &mut window, &piece, piece.range.len()).await?;
        }
        Ok(())
    }

    /// The first `n` bytes of a piece, which the backend can take as they are.
    async fn straight(
        &mut self,
        backend: &mut dyn Target,
        window: &mut Window,
        piece: &Piece,
        n: usize,
    ) -> Result<()> {
        let offset = self.assembler.passed(piece, n);
        let whole = offset..offset + n as u64;
        let wanted = backend.wants(piece.weight, whole);
        let from = piece.range.start + (wanted.start - offset) as usize;
        let bytes = window.read(from..from + (wanted.end - wanted.start) as usize).await?;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = backend.gpu() {
            return gpu.upload_js(piece.weight, wanted.start, &bytes);
        }
        for (index, slice) in slices(&bytes).enumerate() {
            let at = wanted.start + (index * SLICE_BYTES) as u64;
            slice_into(&mut self.slice, &slice);
            sink(self.weights, backend)(piece.weight, at, &self.slice)?;
        }
        Ok(())
    }

    /// The first `n` bytes of a piece, by way of wasm memory.
    async fn through(
        &mut self,
        backend: &mut dyn Target,
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

    /// Waits until the backend has taken what it was given: the browser copies what is written to the GPU, and a fast
    /// disk could fill its memory with parts that a slow GPU has not taken yet.
    pub(super) async fn settle(&self, backend: &AnyBackend) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let AnyBackend::Gpu(gpu) = backend {
            gpu.device().finished().await?;
        }
        #[cfg(not(feature = "gpu"))]
        let _ = backend;
        Ok(())
    }

    /// All parts have come.
    pub(super) fn finish(self, backend: &mut dyn Target) -> Result<()> {
        self.assembler.finish(&mut sink(self.weights, backend))
    }
}

/// Uploads assembled bytes, after a look at their scales.
fn sink<'a>(weights: &'a WeightMap, backend: &'a mut dyn Target) -> impl Sink + 'a {
    |weight, offset, bytes: &[u8]| {
        weights.check_scales(weight, offset, bytes)?;
        backend.take(weight, offset, bytes)
    }
}

/// A part, as far as it has been read.
pub(super) struct Window {
    /// Where the rest is.
    blob: Option<Blob>,
    start: usize,
    bytes: Uint8Array,
}

impl Window {
    /// All of a part.
    pub(super) fn whole(bytes: Uint8Array) -> Self {
        Window { blob: None, start: 0, bytes }
    }

    /// A part that is read as far as it is needed.
    pub(super) fn of(blob: Blob) -> Self {
        Window { blob: Some(blob), ..Window::whole(Uint8Array::new_with_length(0)) }
    }

    async fn read(&mut self, range: Range<usize>) -> Result<Uint8Array> {
        let end = self.start + self.bytes.length() as usize;
        if let Some(blob) = &self.blob
            && !range.is_empty()
            && (range.start < self.start || range.end > end)
        {
            let end = range.end.max(range.start + WINDOW_BYTES) as u64;
            self.bytes = read_slice(blob, range.start as u64..end).await.map_err(|thrown| {
                let message = format!("a part of the model cannot be read: {}", describe(&thrown));
                Error::new(ErrorCode::Io, message)
            })?;
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
