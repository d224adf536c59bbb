//! Matrix products with panels, by integer dots.
//!
//! Principal function: [`panels`]. A panel's block is multiplied with one token (decode) or four (prefill) at a time;
//! integers are summed over a block, scaled, and added up in f32. Must not know file formats.

use super::activations::{ActBlock, Activations, BLOCK, TILE};
use super::panel::{PAIRS, PanelBlock, ROWS};
use crate::backend::cpu::simd::{F32x4, I16x8, I32x4};

/// What happens to a finished sum: `(sum + bias (+ out)) * scale`.
pub(super) struct Finish<'a> {
    pub(super) bias: Option<&'a [f32]>,
    pub(super) accumulate: bool,
    pub(super) scale: f32,
}

impl Finish<'_> {
    /// Writes rows `row..` of one token's result, `out: [n_rows]`; sums of rows beyond the last are dropped.
    #[inline(always)]
    pub(super) fn write<const N: usize>(&self, row: usize, sums: [f32; N], out: &mut [f32]) {
        for (index, sum) in (row..out.len()).zip(sums) {
            let bias = self.bias.map_or(0.0, |bias| bias[index]);
            let residual = if self.accumulate { out[index] } else { 0.0 };
            out[index] = (sum + bias + residual) * self.scale;
        }
    }
}

/// Bytes of activations that a pass over all panels uses: well within any second-level cache.
const PASS_BYTES: usize = 192 << 10;

/// `out: [n_tokens, n_rows]` from the panels `[ceil(n_rows / ROWS), n_cols / BLOCK]` and the activations of `n_tokens`.
pub(super) fn panels<B: PanelBlock>(
    blocks: &[B],
    n_cols: usize,
    activations: &Activations,
    n_rows: usize,
    finish: &Finish,
    out: &mut [f32],
) {
    let n_blocks = n_cols / BLOCK;
    if out.len() == n_rows {
        let token = &activations.single[..n_blocks];
        for (panel, row) in blocks.chunks_exact(n_blocks).zip((0..n_rows).step_by(ROWS)) {
            let [sums] = dot_panel(panel, token);
            finish.write(row, sums.to_array(), out);
        }
        return;
    }
    let tile_bytes = n_blocks * size_of::<ActBlock<TILE>>();
    let tiles_per_pass = (PASS_BYTES / tile_bytes).max(1);
    let passes = activations.tiles.chunks(tiles_per_pass * n_blocks);
    for (tiles, out) in passes.zip(out.chunks_mut(tiles_per_pass * TILE * n_rows)) {
        for (panel, row) in blocks.chunks_exact(n_blocks).zip((0..n_rows).step_by(ROWS)) {
            let tiles = tiles.chunks_exact(n_blocks);
            for (tile, out) in tiles.zip(out.chunks_mut(TILE * n_rows)) {
                let sums = dot_panel(panel, tile);
                for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(n_rows)) {
                    finish.write(row, sums.to_array(), out);
                }
            }
        }
    }
}

/// The dot products of a panel's four rows with `T` tokens, one vector for each token.
#[inline(always)]
fn dot_panel<B: PanelBlock, const T: usize>(panel: &[B], tokens: &[ActBlock<T>]) -> [F32x4; T] {
    let mut sums = [F32x4::splat(0.0); T];
    for (block, act) in panel.iter().zip(tokens) {
        let mut products = [[I32x4::zero(); T]; 2];
        block.visit_pairs(|pair, weights| {
            let products = &mut products[if B::HALVES { pair / (PAIRS / 2) } else { 0 }];
            for (product, word) in products.iter_mut().zip(act.words[pair]) {
                *product = *product + weights.dot(I16x8::splat_pair(word));
            }
        });
        let (scales, offset) = (block.scales(), block.offset());
        for t in 0..T {
            let mut sum = F32x4::from_i32(products[0][t]) * scales[0];
            if B::HALVES {
                sum = sum + F32x4::from_i32(products[1][t]) * scales[1];
            }
            sums[t] = sums[t] + sum * F32x4::splat(act.scale[t]);
            if let Some(offset) = offset {
                sums[t] = sums[t] + offset * F32x4::splat(act.sum[t]);
            }
        }
    }
    sums
}
