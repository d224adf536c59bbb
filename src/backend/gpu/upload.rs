//! Weights on their way into GPU buffers: pieces of a file to the parts they belong to.
//!
//! Principal type: [`Uploads`]. Matrices go as they are, behind the table of their format, and are put
//! into planes there; vectors are collected and decoded
//! to f32. Must not know where pieces come from.

use std::ops::Range;

use super::device::GpuDevice;
use super::plan::{Home, Plan};
use crate::backend::{Counters, ModelPlan};
use crate::error::{Error, ErrorCode, Result};
use crate::quant;

/// So many bytes are handed over before the queue is told to go on: natively it keeps copies until then.
const FLUSH_BYTES: u64 = 16 << 20;

/// A weight that is being filled.
struct Upload {
    name: String,
    received: u64,
    total: u64,
    target: Target,
}

enum Target {
    /// Byte ranges of the tensor and their buffers, and what stands before the weights in each.
    Matrix { parts: Vec<(Range<u64>, usize)>, table: &'static [u16] },
    /// What has come, until it is complete, and then its values.
    Vector { bytes: Vec<u8>, values: Vec<f32>, buffer: usize },
}

/// All weights of a model.
pub(super) struct Uploads {
    weights: Vec<Upload>,
    /// The first so many are in planes.
    n_packed: usize,
    unflushed: u64,
}

/// A run of bytes for one buffer.
pub(super) struct Write {
    pub(super) buffer: usize,
    /// Offset in the buffer, a multiple of 4.
    pub(super) at: u64,
    /// The bytes, as a range of the piece.
    pub(super) bytes: Range<usize>,
}

impl Uploads {
    /// For all weights of a model; the first so many are as they are in `old`.
    pub(super) fn new(model: &ModelPlan, plan: &Plan, old: Option<(&Uploads, usize)>) -> Uploads {
        let mut weights = Vec::with_capacity(plan.homes.len());
        for ((decl, dtype), home) in model.graph.weights.iter().zip(&model.dtypes).zip(&plan.homes) {
            let (total, target) = match home {
                Home::Vector { buffer } => {
                    let total = quant::format(*dtype).row_bytes(decl.n_cols as u64).unwrap_or(0);
                    (total, Target::Vector { bytes: Vec::new(), values: Vec::new(), buffer: *buffer })
                }
                Home::Matrix { row_blocks, parts } => {
                    let row_bytes = u64::from(*row_blocks) * quant::format(*dtype).block_bytes as u64;
                    let ranges = parts.iter().map(|(part, buffer)| {
                        let end = part.first_row + part.n_rows;
                        (part.first_row * row_bytes..end * row_bytes, *buffer)
                    });
                    let table = quant::format(*dtype).table;
                    (decl.n_rows as u64 * row_bytes, Target::Matrix { parts: ranges.collect(), table })
                }
            };
            weights.push(Upload { name: decl.name.clone(), received: 0, total, target });
        }
        let n_packed = old.map_or(0, |(old, n_kept)| old.n_packed.min(n_kept));
        let (old, n_kept) = old.map_or((&[][..], 0), |(old, n_kept)| (old.weights.as_slice(), n_kept));
        for (upload, old) in weights.iter_mut().zip(old).take(n_kept) {
            upload.received = old.received;
            if let (Target::Vector { values, .. }, Target::Vector { values: held, .. }) =
                (&mut upload.target, &old.target)
            {
                values.clone_from(held);
            }
        }
        Uploads { weights, n_packed, unflushed: 0 }
    }

    /// Takes note of a piece and says what to write where.
    /// # Errors
    /// `Internal` when the piece is out of order, misaligned or too long: the caller's mistake.
    pub(super) fn place(&mut self, weight: usize, offset: u64, len: usize) -> Result<Vec<Write>> {
        let Some(upload) = self.weights.get_mut(weight) else {
            return Err(Error::new(ErrorCode::Internal, format!("there is no weight {weight}")));
        };
        let end = offset.saturating_add(len as u64);
        let last = end == upload.total;
        let aligned = offset.is_multiple_of(4) && (last || end.is_multiple_of(4));
        if offset != upload.received || end > upload.total || !aligned {
            let message = format!(
                "bytes {offset}..{end} of {} came where {} of {} had come",
                upload.name, upload.received, upload.total
            );
            return Err(Error::new(ErrorCode::Internal, message));
        }
        upload.received = end;
        self.unflushed += len as u64;
        let Target::Matrix { parts, table } = &upload.target else { return Ok(Vec::new()) };
        let mut writes = Vec::new();
        for (range, buffer) in parts {
            let (from, to) = (range.start.max(offset), range.end.min(end));
            if from < to {
                let bytes = (from - offset) as usize..(to - offset) as usize;
                let at = size_of_val(*table) as u64 + from - range.start;
                writes.push(Write { buffer: *buffer, at, bytes });
            }
        }
        Ok(writes)
    }

    #[cfg(target_arch = "wasm32")]
    /// Whether pieces of the weight are collected here rather than written at once.
    pub(super) fn is_vector(&self, weight: usize) -> bool {
        self.weights.get(weight).is_some_and(|upload| matches!(upload.target, Target::Vector { .. }))
    }

    /// Collects a piece of a vector.
    pub(super) fn collect(&mut self, weight: usize, piece: &[u8]) {
        if let Some(Upload { target: Target::Vector { bytes, .. }, .. }) = self.weights.get_mut(weight) {
            bytes.extend_from_slice(piece);
        }
    }

    /// Lets the queue go on when enough was handed over.
    pub(super) fn flush(&mut self, device: &GpuDevice, counters: &mut Counters) {
        if self.unflushed >= FLUSH_BYTES {
            self.unflushed = 0;
            device.queue.submit([]);
            counters.submits += 1;
        }
    }

    /// Decodes the vectors; gives each with its buffer.
    /// # Errors
    /// `Truncated` names a weight of which bytes are missing.
    pub(super) fn finish(&mut self, model: &ModelPlan) -> Result<Vec<(usize, &[f32])>> {
        for (upload, dtype) in self.weights.iter_mut().zip(&model.dtypes) {
            if upload.received != upload.total {
                let message = format!("only {} of {} bytes came", upload.received, upload.total);
                return Err(Error::new(ErrorCode::Truncated, message).at(upload.name.clone()));
            }
            if let Target::Vector { bytes, values, .. } = &mut upload.target
                && values.is_empty()
            {
                let format = quant::format(*dtype);
                *values = vec![0.0; bytes.len() / format.block_bytes * format.block_len];
                (format.dequant)(bytes, values);
                *bytes = Vec::new();
            }
        }
        Ok(self.weights.iter().filter_map(Upload::vector).collect())
    }

    /// The tables of formats that have one, each with its buffer.
    pub(super) fn tables(&self) -> impl Iterator<Item = (usize, &'static [u16])> {
        let matrices = self.weights.iter().filter_map(|upload| match &upload.target {
            Target::Matrix { parts, table } if !table.is_empty() => Some((parts, *table)),
            _ => None,
        });
        matrices.flat_map(|(parts, table)| parts.iter().map(move |(_, buffer)| (*buffer, table)))
    }

    /// The weights that are not in planes yet, and takes them for packed from now on.
    pub(super) fn unpacked(&mut self) -> Range<usize> {
        std::mem::replace(&mut self.n_packed, self.weights.len())..self.weights.len()
    }

    /// The values of a vector, once finished.
    pub(super) fn vector(&self, weight: usize) -> Option<&[f32]> {
        self.weights.get(weight).and_then(Upload::vector).map(|(_, values)| values)
    }
}

impl Upload {
    fn vector(&self) -> Option<(usize, &[f32])> {
        match &self.target {
            Target::Vector { values, buffer, .. } => Some((*buffer, values)),
            Target::Matrix { .. } => None,
        }
    }
}
