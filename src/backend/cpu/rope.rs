//! Rotary embedding: the sines and cosines of the positions of one step, and the rotation.
//!
//! Principal type: [`RopeTable`]. Angles are computed in f64 for the step's positions only: a table of all positions
//! would be 32 MiB at 128k positions. Must not know the KV cache.

use super::plan::zeroed;
use crate::error::Result;
use crate::model::spec::{RopeFrequencies, RopeLayout, RopeSpec};

/// Angles of the step under way.
pub(super) struct RopeTable {
    spec: RopeSpec,
    frequencies: RopeFrequencies,
    /// `[n_batch, n_dims / 2]` pairs of cosine and sine, magnitude included.
    turns: Vec<(f32, f32)>,
}

impl RopeTable {
    /// A table for steps of up to `n_batch` tokens.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(spec: &RopeSpec, n_batch: usize) -> Result<RopeTable> {
        let turns = zeroed::<f32>(n_batch * spec.n_dims, "rope table")?;
        let turns = turns.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(RopeTable { frequencies: spec.frequencies(None, false), spec: spec.clone(), turns })
    }

    /// Divides the frequencies by `factors` from the next step on, which belongs to a text that is `long` or not.
    pub(super) fn set_factors(&mut self, factors: Option<&[f32]>, long: bool) {
        self.frequencies = self.spec.frequencies(factors, long);
    }

    /// Sets the table to the `n_tokens` positions from `pos` on.
    pub(super) fn set(&mut self, pos: usize, n_tokens: usize) {
        let radians = &self.frequencies.radians_per_pos;
        let magnitude = f64::from(self.frequencies.magnitude);
        let rows = self.turns.chunks_exact_mut(radians.len().max(1));
        for (row, pos) in rows.zip(pos..pos + n_tokens) {
            for (turn, radians) in row.iter_mut().zip(radians) {
                let (sin, cos) = (radians * pos as f64).sin_cos();
                *turn = ((cos * magnitude) as f32, (sin * magnitude) as f32);
            }
        }
    }

    /// Rotates the heads of token `token` of the step, `row: [n_heads, head_dim]`.
    pub(super) fn rotate(&self, token: usize, row: &mut [f32], head_dim: usize) {
        let n_pairs = self.spec.n_dims / 2;
        let turns = &self.turns[token * n_pairs..][..n_pairs];
        for head in row.chunks_exact_mut(head_dim) {
            match self.spec.layout {
                RopeLayout::Norm => {
                    for (pair, turn) in head.chunks_exact_mut(2).zip(turns) {
                        (pair[0], pair[1]) = turned(pair[0], pair[1], *turn);
                    }
                }
                RopeLayout::Neox => {
                    let (first, second) = head.split_at_mut(n_pairs);
                    for ((a, b), turn) in first.iter_mut().zip(second).zip(turns) {
                        (*a, *b) = turned(*a, *b, *turn);
                    }
                }
            }
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> u64 {
        size_of_val(self.turns.as_slice()) as u64
    }
}

fn turned(a: f32, b: f32, (cos, sin): (f32, f32)) -> (f32, f32) {
    (a * cos - b * sin, a * sin + b * cos)
}
