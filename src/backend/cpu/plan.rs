//! What is decided before the first step: that the graph fits together, and where its values live.
//!
//! Principal type: [`Workspace`]. After [`check`] no op can meet a slice of another length than it expects, so the
//! kernels need no error path. Must not know how an op is computed.

use super::fits::op_fits;
use crate::backend::{KV_FORMATS, ModelPlan};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, Rows, ValueId};
use crate::quant;

/// Checks `plan` as a whole.
/// # Errors
/// `InvalidRequest` for empty batches or contexts, `WrongShape` for a weight whose rows are not whole blocks of its
/// format, `Internal` for a graph that contradicts itself.
pub(super) fn check(plan: &ModelPlan) -> Result<()> {
    let graph = &plan.graph;
    if plan.n_ctx == 0 || plan.n_batch == 0 {
        let message = format!("n_ctx {} and n_batch {} must be above zero", plan.n_ctx, plan.n_batch);
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    if plan.kv_cache.is_some_and(|dtype| !KV_FORMATS.contains(&dtype)) {
        return Err(internal(format!("no cache is kept as {:?}", plan.kv_cache)));
    }
    if plan.dtypes.len() != graph.weights.len() {
        return Err(internal(format!("{} formats for {} weights", plan.dtypes.len(), graph.weights.len())));
    }
    for (weight, dtype) in graph.weights.iter().zip(&plan.dtypes) {
        let block_len = quant::format(*dtype).block_len;
        if weight.n_cols == 0 || weight.n_rows == 0 || !weight.n_cols.is_multiple_of(block_len) {
            let message = format!(
                "{} rows of {} elements cannot be stored as {dtype:?}, whose blocks have {block_len}",
                weight.n_rows, weight.n_cols
            );
            return Err(Error::new(ErrorCode::WrongShape, message).at(weight.name.clone()));
        }
    }
    for op in &graph.ops {
        if let Op::AddPosition { table, .. } = op {
            let n_positions = graph.weights.get(table.0).map_or(0, |table| table.n_rows);
            if plan.n_ctx > n_positions {
                let message = format!("the model knows {n_positions} positions, n_ctx is {}", plan.n_ctx);
                return Err(Error::new(ErrorCode::InvalidRequest, message).at("n_ctx"));
            }
        }
    }
    let mut written = vec![false; graph.values.len()];
    for (index, op) in graph.ops.iter().enumerate() {
        let known = |id: &ValueId| written.get(id.0).copied().unwrap_or(false);
        if !op.reads().iter().all(known) || op.writes().0 >= graph.values.len() || !op_fits(graph, op) {
            return Err(internal(format!("op {index} does not fit its operands: {op:?}")));
        }
        written[op.writes().0] = true;
    }
    match graph.logits {
        Some(id) if written.get(id.0) == Some(&true) && graph.values[id.0].rows == Rows::Outputs => Ok(()),
        _ => Err(internal("the graph computes no logits".into())),
    }
}

fn internal(message: String) -> Error {
    Error::new(ErrorCode::Internal, message)
}

/// Buffers of the intermediate values. Values that are never needed at the same time share a buffer, so the size does
/// not grow with the number of layers. The logits are not here: they are computed straight into the result.
pub(super) struct Workspace {
    buffers: Vec<Vec<f32>>,
    /// For each value its buffer; the logits' is one past the last.
    buffer_of: Vec<usize>,
    /// Of buffers of rows that are put out the width of a row: they have room for one, the usual number, until there are
    /// more.
    outputs: Vec<(usize, usize)>,
    /// Room for the source of an op that cannot work in place, and for a row of a table.
    pub(super) scratch: Vec<f32>,
}

impl Workspace {
    /// Allocates for steps of up to `n_batch` tokens. The plan must have been checked.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(plan: &ModelPlan) -> Result<Workspace> {
        let graph = &plan.graph;
        let mut last_use = vec![0; graph.values.len()];
        for (index, op) in graph.ops.iter().enumerate() {
            for id in op.reads().into_iter().chain([op.writes()]) {
                last_use[id.0] = index;
            }
        }
        let mut widths: Vec<usize> = Vec::new();
        let mut rows: Vec<Rows> = Vec::new();
        let mut busy_until: Vec<usize> = Vec::new();
        let mut buffer_of = vec![usize::MAX; graph.values.len()];
        for (index, op) in graph.ops.iter().enumerate() {
            let id = op.writes();
            if buffer_of[id.0] != usize::MAX || Some(id) == graph.logits {
                continue;
            }
            let (width, rows_of) = (graph.values[id.0].width, graph.values[id.0].rows);
            // A buffer read by this very op is still busy, so an op never writes over its own sources.
            let free = (0..widths.len()).filter(|slot| busy_until[*slot] < index && rows[*slot] == rows_of);
            let slot = free.min_by_key(|slot| widths[*slot].abs_diff(width)).unwrap_or_else(|| {
                widths.push(0);
                busy_until.push(0);
                rows.push(rows_of);
                widths.len() - 1
            });
            widths[slot] = widths[slot].max(width);
            busy_until[slot] = last_use[id.0];
            buffer_of[id.0] = slot;
        }
        if let Some(logits) = graph.logits {
            buffer_of[logits.0] = widths.len();
        }
        let mut buffers = Vec::with_capacity(widths.len() + 1);
        let mut outputs = Vec::new();
        for (slot, (width, rows)) in widths.into_iter().zip(rows).enumerate() {
            let n_rows = match rows {
                Rows::Tokens => plan.n_batch,
                Rows::Outputs => 1,
            };
            if rows == Rows::Outputs {
                outputs.push((slot, width));
            }
            buffers.push(zeroed(width * n_rows, "workspace")?);
        }
        buffers.push(Vec::new());
        let scratch = graph.ops.iter().map(|op| match *op {
            Op::Norm { x, out, .. } if x == out => plan.n_batch * graph.values[out.0].width,
            Op::AddPosition { out, .. } => graph.values[out.0].width,
            _ => 0,
        });
        let scratch = zeroed(scratch.max().unwrap_or(0), "workspace")?;
        Ok(Workspace { buffers, buffer_of, outputs, scratch })
    }

    /// Makes room for a step that puts out so many rows.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn fit(&mut self, n_outputs: usize) -> Result<()> {
        for (slot, width) in &self.outputs {
            if self.buffers[*slot].len() < width * n_outputs {
                self.buffers[*slot] = Vec::new();
                self.buffers[*slot] = with_capacity(width * n_outputs, "workspace")?;
                self.buffers[*slot].resize(width * n_outputs, f32::NAN);
            }
        }
        Ok(())
    }

    /// The first `len` elements of the buffer of `id`.
    pub(super) fn get(&self, id: ValueId, len: usize) -> &[f32] {
        &self.buffers[self.buffer_of[id.0]][..len]
    }

    /// Takes the buffer of `id` out, so that the others can be read while it is written. It must be put back.
    pub(super) fn take(&mut self, id: ValueId) -> Vec<f32> {
        std::mem::take(&mut self.buffers[self.buffer_of[id.0]])
    }

    /// Puts the buffer of `id` back, or the logits' in.
    pub(super) fn put(&mut self, id: ValueId, buffer: Vec<f32>) {
        self.buffers[self.buffer_of[id.0]] = buffer;
    }

    /// Fills everything with NaN, so that reading what was never written shows.
    pub(super) fn poison(&mut self) {
        for buffer in self.buffers.iter_mut().chain([&mut self.scratch]) {
            buffer.fill(f32::NAN);
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.buffers.iter().chain([&self.scratch]).map(|buffer| 4 * buffer.len() as u64).sum()
    }
}

/// `len` zeros.
/// # Errors
/// `OutOfMemory`, naming `what`.
pub(super) fn zeroed<T: Clone + Default>(len: usize, what: &str) -> Result<Vec<T>> {
    let mut buffer = with_capacity(len, what)?;
    buffer.resize(len, T::default());
    Ok(buffer)
}

/// An empty vector with room for `len` elements.
/// # Errors
/// `OutOfMemory`, naming `what`.
pub(super) fn with_capacity<T>(len: usize, what: &str) -> Result<Vec<T>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|error| {
        let n_bytes = len.saturating_mul(size_of::<T>());
        let message = format!(
            "{n_bytes} bytes for the {what} do not fit into memory; choose a smaller context or model"
        );
        Error::new(ErrorCode::OutOfMemory, message).caused_by(error)
    })?;
    Ok(buffer)
}
