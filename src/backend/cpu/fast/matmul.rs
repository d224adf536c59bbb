//! Matrix products with panels, by integer dots.
//!
//! Principal function: [`panels`]. Decoding multiplies each panel with the one token as it is unpacked, and up to a tile
//! of tokens just so; longer chunks of a prompt unpack two panels once and multiply them with four tokens at a time.
//! Integers are summed over a block, scaled, and added up in f32, in the same order whatever the chunk. Must not know file
//! formats.

use super::activations::{ActBlock, Activations, BLOCK, TILE};
use super::panel::{PAIRS, PanelBlock, ROWS};
use crate::backend::cpu::simd::{F32x4, I16x8, I32x4, unrolled};

/// What happens to a finished sum: `(sum + bias (+ out)) * scale`.
pub(super) struct Finish<'a> {
    pub(super) bias: Option<&'a [f32]>,
    pub(super) accumulate: bool,
    pub(super) scale: f32,
}

impl Finish<'_> {
    /// Writes row `row` of one token's result, `out: [n_rows]`.
    #[inline(always)]
    pub(super) fn write(&self, row: usize, sum: f32, out: &mut [f32]) {
        let bias = self.bias.map_or(0.0, |bias| bias[row]);
        let residual = if self.accumulate { out[row] } else { 0.0 };
        out[row] = (sum + bias) * self.scale + residual;
    }

    /// Writes rows `row..row + ROWS`; sums of rows beyond the last are dropped.
    #[inline(always)]
    fn write_panel(&self, row: usize, sums: F32x4, out: &mut [f32]) {
        let Some(whole) = out.get_mut(row..).and_then(|rows| rows.first_chunk_mut::<ROWS>()) else {
            return self.write_rest(row, sums.to_array(), out);
        };
        let of = |values: &[f32]| values[row..].first_chunk().map_or(F32x4::ZERO, F32x4::load);
        let bias = self.bias.map_or(F32x4::ZERO, of);
        let residual = if self.accumulate { F32x4::load(whole) } else { F32x4::ZERO };
        ((sums + bias) * F32x4::splat(self.scale) + residual).store(whole);
    }

    #[inline(never)]
    fn write_rest(&self, row: usize, sums: [f32; ROWS], out: &mut [f32]) {
        for (row, sum) in (row..out.len()).zip(sums) {
            self.write(row, sum, out);
        }
    }
}

/// Panels that prefill multiplies at a time: with [`TILE`] tokens, eight sums that stay in registers.
const WIDTH: usize = 2;

/// A block of [`WIDTH`] panels, unpacked: the same for all layouts.
#[derive(Clone, Copy, Default)]
pub(super) struct Unpacked {
    pairs: [[[i16; 8]; WIDTH]; PAIRS],
    scales: [[[f32; ROWS]; WIDTH]; 2],
    offsets: [[[f32; ROWS]; WIDTH]; 2],
}

/// Bytes of activations that a pass over all panels uses: well within any second-level cache.
const PASS_BYTES: usize = 192 << 10;

/// `out: [n_tokens, n_rows]` from the panels `[ceil(n_rows / ROWS), n_cols / BLOCK]` and the activations of `n_tokens`.
/// `unpacked: [>= n_cols / BLOCK]` is scratch.
pub(super) fn panels<B: PanelBlock>(
    blocks: &[B],
    n_cols: usize,
    activations: &Activations,
    unpacked: &mut [Unpacked],
    n_rows: usize,
    finish: &Finish,
    out: &mut [f32],
) {
    let n_blocks = n_cols / BLOCK;
    if out.len() == n_rows {
        return once(blocks, &activations.single[..n_blocks], n_rows, finish, out);
    }
    if out.len() <= n_rows * TILE {
        // Weights that serve one tile are multiplied sooner than written down and read again.
        return once(blocks, &activations.tiles[..n_blocks], n_rows, finish, out);
    }
    let unpacked = &mut unpacked[..n_blocks];
    let tiles_per_pass = (PASS_BYTES / (n_blocks * size_of::<ActBlock<TILE>>())).max(1);
    let passes = activations.tiles.chunks(tiles_per_pass * n_blocks);
    for (tiles, out) in passes.zip(out.chunks_mut(tiles_per_pass * TILE * n_rows)) {
        let panels = blocks.chunks(n_blocks * WIDTH);
        for (panels, row) in panels.zip((0..n_rows).step_by(ROWS * WIDTH)) {
            unpack(panels, unpacked);
            let tiles = tiles.chunks_exact(n_blocks);
            for (tile, out) in tiles.zip(out.chunks_mut(TILE * n_rows)) {
                let sums =
                    if B::HALVES { dot_tile::<2>(unpacked, tile) } else { dot_tile::<1>(unpacked, tile) };
                for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(n_rows)) {
                    unrolled!(index in [0, 1] {
                        finish.write_panel(row + index * ROWS, sums[index], out);
                    });
                }
            }
        }
    }
}

/// The products of all panels with at most `T` tokens.
#[inline(always)]
fn once<B: PanelBlock, const T: usize>(
    blocks: &[B],
    tile: &[ActBlock<T>],
    n_rows: usize,
    finish: &Finish,
    out: &mut [f32],
) {
    for (panel, row) in blocks.chunks_exact(tile.len()).zip((0..n_rows).step_by(ROWS)) {
        for (sums, out) in dot_panel(panel, tile).into_iter().zip(out.chunks_exact_mut(n_rows)) {
            finish.write_panel(row, sums, out);
        }
    }
}

/// The dot products of a panel's four rows with `T` tokens, as the panel is unpacked: one or a tile. The same sums in the
/// same order as those of [`dot_tile`].
#[inline(always)]
fn dot_panel<B: PanelBlock, const T: usize>(panel: &[B], tile: &[ActBlock<T>]) -> [F32x4; T] {
    const { assert!(T <= 4) };
    let mut sums = [F32x4::ZERO; T];
    for (block, act) in panel.iter().zip(tile) {
        let mut products = [[I32x4::ZERO; T]; 2];
        block.visit_pairs(|pair, weights| {
            let half = if B::HALVES { pair / (PAIRS / 2) } else { 0 };
            unrolled!(t in [0, 1, 2, 3] {
                if t < T {
                    let word = I16x8::splat_pair(act.words[pair][t]);
                    products[half][t] = products[half][t] + weights.dot(word);
                }
            });
        });
        let scales = block.scales();
        // All indices are constants, or the sums would live in memory.
        unrolled!(half in [0, 1] {
            if half == 0 || B::HALVES {
                unrolled!(t in [0, 1, 2, 3] {
                    if t < T {
                        let scaled = F32x4::from_i32(products[half][t]) * scales[half];
                        sums[t] = sums[t] + scaled * F32x4::splat(act.scale[t]);
                    }
                });
            }
        });
        let Some(offsets) = block.offsets() else { continue };
        unrolled!(half in [0, 1] {
            if half == 0 || B::HALVES {
                let act_sums = if B::HALVES { &act.half_sums[half] } else { &act.sum };
                unrolled!(t in [0, 1, 2, 3] {
                    if t < T {
                        sums[t] = sums[t] + offsets[half] * F32x4::splat(act_sums[t]);
                    }
                });
            }
        });
    }
    sums
}

/// Unpacks up to [`WIDTH`] panels of as many blocks as `to` has; what an absent one leaves behind is not used.
fn unpack<B: PanelBlock>(panels: &[B], to: &mut [Unpacked]) {
    for (index, panel) in panels.chunks_exact(to.len()).enumerate() {
        for (block, to) in panel.iter().zip(to.iter_mut()) {
            block.visit_pairs(|pair, weights| weights.store(&mut to.pairs[pair][index]));
            let scales = block.scales();
            scales[0].store(&mut to.scales[0][index]);
            scales[1].store(&mut to.scales[1][index]);
            let offsets = block.offsets().unwrap_or([F32x4::ZERO; 2]);
            offsets[0].store(&mut to.offsets[0][index]);
            offsets[1].store(&mut to.offsets[1][index]);
        }
    }
}

/// The dot products of the rows of [`WIDTH`] panels, scaled `PARTS` times a block, with a tile of tokens.
#[inline(never)]
fn dot_tile<const PARTS: usize>(panels: &[Unpacked], tile: &[ActBlock<TILE>]) -> [[F32x4; WIDTH]; TILE] {
    // Pairs whose products are unrolled, so that the loop itself costs little.
    const UNROLL: usize = 4;
    const { assert!(TILE == 4 && WIDTH == 2 && UNROLL == 4) };
    let mut sums = [[F32x4::ZERO; WIDTH]; TILE];
    for (block, act) in panels.iter().zip(tile) {
        for part in 0..PARTS {
            let range = part * PAIRS / PARTS..(part + 1) * PAIRS / PARTS;
            let weights = block.pairs[range.clone()].as_chunks::<UNROLL>().0;
            let words = act.words[range].as_chunks::<UNROLL>().0;
            let mut products = [[I32x4::ZERO; WIDTH]; TILE];
            for (weights, words) in weights.iter().zip(words) {
                unrolled!(pair in [0, 1, 2, 3] {
                    let weights = [I16x8::load(&weights[pair][0]), I16x8::load(&weights[pair][1])];
                    unrolled!(t in [0, 1, 2, 3] {
                        let word = I16x8::splat_pair(words[pair][t]);
                        products[t][0] = products[t][0] + weights[0].dot(word);
                        products[t][1] = products[t][1] + weights[1].dot(word);
                    });
                });
            }
            unrolled!(t in [0, 1, 2, 3] {
                let scale = F32x4::splat(act.scale[t]);
                unrolled!(i in [0, 1] {
                    let scaled = F32x4::from_i32(products[t][i]) * F32x4::load(&block.scales[part][i]);
                    sums[t][i] = sums[t][i] + scaled * scale;
                });
            });
        }
        for part in 0..PARTS {
            let act_sums = if PARTS == 1 { &act.sum } else { &act.half_sums[part] };
            unrolled!(t in [0, 1, 2, 3] {
                let act_sum = F32x4::splat(act_sums[t]);
                unrolled!(i in [0, 1] {
                    sums[t][i] = sums[t][i] + F32x4::load(&block.offsets[part][i]) * act_sum;
                });
            });
        }
    }
    sums
}
