//! Activations rounded to integers for the dot kernels.
//!
//! Principal type: [`Activations`]. A block of 32 has one scale, and 16-bit integers: simd128 multiplies 16-bit lanes
//! whatever their range, so the precision over 8 bits is free, and an outlier costs its neighbours only what is below
//! 1/32767 of it. Must not know weights.

use crate::backend::cpu::plan::zeroed;
use crate::backend::cpu::simd::{F32x4, I32x4, unrolled};
use crate::error::Result;
use crate::model::graph::ValueId;

/// Columns of a block of activations, and of weight panels.
pub(super) const BLOCK: usize = 32;

/// Tokens of a tile.
pub(super) const TILE: usize = 4;

/// Largest magnitude of a rounded activation. A block's dot with 8-bit weights stays below 2^28.
const RANGE: f32 = 32767.0;

/// A block of `T` tokens side by side: 1 for decoding, [`TILE`] for prefill.
#[derive(Clone, Copy)]
pub(super) struct ActBlock<const T: usize> {
    /// For each four columns two words of two 16-bit values each, columns 0 and 2, then 1 and 3: the order in which
    /// shifting and masking separates the bytes of a weight panel.
    pub(super) words: [[i32; T]; BLOCK / 2],
    /// Value of one unit.
    pub(super) scale: [f32; T],
    /// Sum of the rounded activations.
    pub(super) sum: [f32; T],
    /// Sums of columns 0..16 and 16..32.
    pub(super) half_sums: [[f32; T]; 2],
}

impl<const T: usize> Default for ActBlock<T> {
    fn default() -> Self {
        ActBlock { words: [[0; T]; BLOCK / 2], scale: [0.0; T], sum: [0.0; T], half_sums: [[0.0; T]; 2] }
    }
}

/// The rounded source of the matrix products under way; consecutive products of one source share it.
pub(super) struct Activations {
    /// One token: `[n_blocks]`.
    pub(super) single: Vec<ActBlock<1>>,
    /// Several: `[n_tokens / TILE, n_blocks]`, the last tile filled up with zeros.
    pub(super) tiles: Vec<ActBlock<TILE>>,
    source: Option<ValueId>,
}

impl Activations {
    /// For up to `n_batch` tokens of up to `n_cols` columns.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn new(n_cols: usize, n_batch: usize) -> Result<Activations> {
        let n_blocks = n_cols.div_ceil(BLOCK);
        let n_tiles = if n_batch == 1 { 0 } else { n_batch.div_ceil(TILE) };
        let single = zeroed(n_blocks, "workspace")?;
        Ok(Activations { single, tiles: zeroed(n_tiles * n_blocks, "workspace")?, source: None })
    }

    /// Rounds `x: [n_tokens, n_cols]`, unless that is what is held.
    pub(super) fn set(&mut self, source: ValueId, x: &[f32], n_cols: usize) {
        if self.source == Some(source) {
            return;
        }
        self.source = Some(source);
        let n_blocks = n_cols / BLOCK;
        if x.len() == n_cols {
            for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(&mut self.single) {
                round_block(x, block, 0);
            }
            return;
        }
        let tiles = self.tiles.chunks_exact_mut(n_blocks);
        for (tokens, tile) in x.chunks(n_cols * TILE).zip(tiles) {
            if tokens.len() < n_cols * TILE {
                tile.fill(ActBlock::default());
            }
            for (token, x) in tokens.chunks_exact(n_cols).enumerate() {
                for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(tile.iter_mut()) {
                    round_block(x, block, token);
                }
            }
        }
    }

    /// Forgets what was derived from `value`.
    pub(super) fn forget(&mut self, value: ValueId) {
        self.source = self.source.filter(|source| *source != value);
    }

    /// Forgets what was derived from any value.
    pub(super) fn forget_all(&mut self) {
        self.source = None;
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.single.as_slice()) + size_of_val(self.tiles.as_slice())
    }
}

/// Rounds `x` into column `token` of a block.
pub(super) fn round_block<const T: usize>(x: &[f32; BLOCK], block: &mut ActBlock<T>, token: usize) {
    // Comparing the bits of the magnitudes lets a NaN win, and thus reach the result.
    let quads = x.as_chunks::<4>().0;
    let largest = quads.iter().fold(F32x4::ZERO, |largest, quad| largest.max(F32x4::load(quad).abs()));
    let largest = largest.to_array().into_iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    // Below this the inverse would overflow; such a block is zero for every purpose.
    let (scale, inverse) = if largest < 1e-30 { (0.0, 0.0) } else { (largest / RANGE, RANGE / largest) };
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let (inverse, magic) = (F32x4::splat(inverse), F32x4::splat(MAGIC));
    let mut sums = [0i32; 2];
    for (index, (quad, words)) in quads.iter().zip(block.words.as_chunks_mut::<2>().0).enumerate() {
        let shifted = (F32x4::load(quad) * inverse + magic).to_array();
        let mut quad = [0; 4];
        unrolled!(i in [0, 1, 2, 3] {
            quad[i] = (shifted[i].to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
        });
        words[0][token] = quad[0] & 0xffff | quad[2] << 16;
        words[1][token] = quad[1] & 0xffff | quad[3] << 16;
        let half = &mut sums[index / (BLOCK / 8)];
        let sum = quad[0].wrapping_add(quad[1]).wrapping_add(quad[2]).wrapping_add(quad[3]);
        *half = half.wrapping_add(sum);
    }
    block.scale[token] = scale;
    block.sum[token] = scale * sums[0].wrapping_add(sums[1]) as f32;
    block.half_sums[0][token] = scale * sums[0] as f32;
    block.half_sums[1][token] = scale * sums[1] as f32;
}

/// Rounds four rows side by side, `x: [BLOCK, 4]`, as [`round_block`] rounds each of them; makes no half sums.
pub(super) fn round_rows(x: &[[f32; 4]; BLOCK], block: &mut ActBlock<4>) {
    let largest = x.iter().fold(F32x4::ZERO, |largest, x| largest.max(F32x4::load(x).abs()));
    let (range, least) = (F32x4::splat(RANGE), F32x4::splat(1e-30));
    (largest / range).zero_where_below(largest, least).store(&mut block.scale);
    let inverse = (range / largest).zero_where_below(largest, least);
    let magic = F32x4::splat(12_582_912.0);
    let mut sum = F32x4::ZERO;
    for (x, words) in x.as_chunks::<4>().0.iter().zip(block.words.as_chunks_mut::<2>().0) {
        let mut shifted = [magic; 4];
        unrolled!(i in [0, 1, 2, 3] {
            shifted[i] = F32x4::load(&x[i]) * inverse + magic;
            sum = sum + (shifted[i] - magic);
        });
        I32x4::low_halves(shifted[0], shifted[2]).store(&mut words[0]);
        I32x4::low_halves(shifted[1], shifted[3]).store(&mut words[1]);
    }
    (sum * F32x4::load(&block.scale)).store(&mut block.sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_rows_are_rounded_as_each_is() {
        let mut x: [[f32; 4]; BLOCK] =
            std::array::from_fn(|i| [i as f32 * 0.37 - 4.0, 1e-38 * i as f32, 3e38 - 1e37 * i as f32, 0.5]);
        let (mut rows, mut row) = (ActBlock::<4>::default(), ActBlock::<1>::default());
        round_rows(&x, &mut rows);
        for index in 0..4 {
            round_block(&x.map(|x| x[index]), &mut row, 0);
            assert_eq!((rows.scale[index], rows.sum[index]), (row.scale[0], row.sum[0]), "row {index}");
            assert_eq!(rows.words.map(|words| words[index]), row.words.map(|words| words[0]), "row {index}");
        }
        x[7][1] = f32::NAN;
        round_rows(&x, &mut rows);
        assert!(rows.scale[1].is_nan() && rows.scale[0].is_finite());
    }

    #[test]
    fn rounding_keeps_sixteen_bits_of_a_block() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 - 11.0) * 0.37);
        let mut block = ActBlock::<1>::default();
        round_block(&x, &mut block, 0);
        for (i, x) in x.iter().enumerate() {
            let word = block.words[i / 4 * 2 + i % 2][0];
            let unit = (word >> (16 * (i % 4 / 2))) as i16;
            assert!((f32::from(unit) * block.scale[0] - x).abs() <= 0.51 * block.scale[0], "column {i}");
        }
        assert!((block.sum[0] - x.iter().sum::<f32>()).abs() < 32.0 * block.scale[0]);
        let front = x[..BLOCK / 2].iter().sum::<f32>();
        assert!((block.half_sums[0][0] - front).abs() < 16.0 * block.scale[0]);
        assert!((block.sum[0] - block.half_sums[0][0] - block.half_sums[1][0]).abs() < 1e-3);
    }

    #[test]
    fn extreme_blocks_stay_defined() {
        for (value, expected) in [(0.0, 0.0), (1e-38, 0.0), (3e38, 3e38)] {
            let mut block = ActBlock::<1>::default();
            round_block(&[value; BLOCK], &mut block, 0);
            let unit = f32::from(block.words[3][0] as i16);
            assert!((unit * block.scale[0] - expected).abs() <= expected * 1e-4, "{value}");
        }
        let mut poisoned = [1.0; BLOCK];
        poisoned[7] = f32::NAN;
        let mut block = ActBlock::<1>::default();
        round_block(&poisoned, &mut block, 0);
        assert!(block.scale[0].is_nan());
    }

    #[test]
    fn a_source_is_rounded_again_only_after_it_was_written() {
        let mut activations = Activations::new(BLOCK, 5).expect("small");
        activations.set(ValueId(3), &[1.0; BLOCK], BLOCK);
        activations.set(ValueId(3), &[2.0; BLOCK], BLOCK);
        assert_eq!(activations.single[0].sum[0], 32.0);
        activations.forget(ValueId(4));
        activations.set(ValueId(3), &[2.0; BLOCK], BLOCK);
        assert_eq!(activations.single[0].sum[0], 32.0);
        activations.forget(ValueId(3));
        activations.set(ValueId(3), &[2.0; BLOCK], BLOCK);
        assert_eq!(activations.single[0].sum[0], 64.0);
    }
}
