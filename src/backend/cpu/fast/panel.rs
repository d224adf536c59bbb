//! The layouts of repacked weights: panels of four rows, in blocks of 32 columns.
//!
//! Principal trait: [`PanelBlock`]. Many file formats, four layouts: 4-bit quants with an offset (Q4_0, Q4_1, Q4_K),
//! bytes with one scale (Q8_0, Q5_0), with an offset as well (Q5_1, Q5_K), and with a scale for each 16 columns
//! (Q6_K). Sixteen bytes hold four columns of each of the four rows, so a vector of products has one lane per row and
//! no sum across lanes is needed. Must not know file formats.

use bytemuck::{Pod, Zeroable};

use super::activations::BLOCK;
use crate::backend::cpu::simd::{F32x4, I16x8};

/// Rows of a panel.
pub(super) const ROWS: usize = 4;

/// Vectors of products per block: each takes two columns of the four rows.
pub(super) const PAIRS: usize = BLOCK / 2;

/// 32 columns of one row, in the terms that all formats share: `weight = scale * quant + offset`.
#[derive(Clone, Copy)]
pub(super) struct RowBlock {
    /// Of columns 0..16 and 16..32; equal but in [`Panel8Halves`].
    pub(super) scales: [f32; 2],
    /// Added to all columns; zero where the layout has none.
    pub(super) offset: f32,
    /// 0..16 in [`Panel4`].
    pub(super) quants: [i8; BLOCK],
}

/// 32 columns of four rows.
pub(super) trait PanelBlock: Pod {
    /// Whether columns 16..32 have their own scales.
    const HALVES: bool;

    /// Stores the columns of row `row`.
    fn set_row(&mut self, row: usize, columns: &RowBlock);

    /// The columns of row `row` as stored.
    fn row(&self, row: usize) -> RowBlock;

    /// Scales of the four rows, of columns 0..16 and 16..32.
    fn scales(&self) -> [F32x4; 2];

    /// Offsets of the four rows, if the layout has them.
    fn offset(&self) -> Option<F32x4>;

    /// Calls `visit(pair, vector)` with the quants of pair `pair` of columns, in the order of `ActBlock::words`; the
    /// pairs come in the order that is cheapest.
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8));
}

/// Quants 0..16: vector `j` has columns `4j..4j+4` in its low nibbles and `16+4j..` in its high ones.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Panel4 {
    scale: [f32; ROWS],
    offset: [f32; ROWS],
    quants: [[u8; 16]; 4],
}

/// Signed bytes: vector `j` has columns `4j..4j+4`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Panel8 {
    scale: [f32; ROWS],
    quants: [[u8; 16]; 8],
}

/// Signed bytes with offsets.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Panel8Offset {
    scale: [f32; ROWS],
    offset: [f32; ROWS],
    quants: [[u8; 16]; 8],
}

/// Signed bytes with a scale for each 16 columns.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Panel8Halves {
    scales: [[f32; ROWS]; 2],
    quants: [[u8; 16]; 8],
}

impl PanelBlock for Panel4 {
    const HALVES: bool = false;

    fn set_row(&mut self, row: usize, columns: &RowBlock) {
        self.scale[row] = columns.scales[0];
        self.offset[row] = columns.offset;
        for (j, vector) in self.quants.iter_mut().enumerate() {
            for (i, byte) in vector[4 * row..][..4].iter_mut().enumerate() {
                *byte = columns.quants[4 * j + i] as u8 | (columns.quants[16 + 4 * j + i] as u8) << 4;
            }
        }
    }

    fn row(&self, row: usize) -> RowBlock {
        let quants = std::array::from_fn(|column| {
            let byte = self.quants[column % 16 / 4][4 * row + column % 4];
            (byte >> (column / 16 * 4) & 15) as i8
        });
        RowBlock { scales: [self.scale[row]; 2], offset: self.offset[row], quants }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scale); 2]
    }

    #[inline(always)]
    fn offset(&self) -> Option<F32x4> {
        Some(F32x4::load(&self.offset))
    }

    #[inline(always)]
    fn visit_pairs(&self, mut visit: impl FnMut(usize, I16x8)) {
        let nibble = I16x8::splat(15);
        for (j, vector) in self.quants.iter().enumerate() {
            let vector = I16x8::load_bytes(vector);
            visit(2 * j, vector.and(nibble));
            visit(2 * j + 1, vector.shr::<8>().and(nibble));
            visit(PAIRS / 2 + 2 * j, vector.shr::<4>().and(nibble));
            visit(PAIRS / 2 + 2 * j + 1, vector.shr::<12>());
        }
    }
}

#[inline(always)]
fn visit_bytes(quants: &[[u8; 16]; 8], mut visit: impl FnMut(usize, I16x8)) {
    for (j, vector) in quants.iter().enumerate() {
        let vector = I16x8::load_bytes(vector);
        visit(2 * j, vector.shl::<8>().sar::<8>());
        visit(2 * j + 1, vector.sar::<8>());
    }
}

fn set_bytes(quants: &mut [[u8; 16]; 8], row: usize, columns: &RowBlock) {
    for (vector, columns) in quants.iter_mut().zip(columns.quants.as_chunks::<4>().0) {
        vector[4 * row..][..4].copy_from_slice(&columns.map(|quant| quant as u8));
    }
}

fn row_bytes(quants: &[[u8; 16]; 8], row: usize) -> [i8; BLOCK] {
    std::array::from_fn(|column| quants[column / 4][4 * row + column % 4] as i8)
}

impl PanelBlock for Panel8 {
    const HALVES: bool = false;

    fn set_row(&mut self, row: usize, columns: &RowBlock) {
        self.scale[row] = columns.scales[0];
        set_bytes(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> RowBlock {
        RowBlock { scales: [self.scale[row]; 2], offset: 0.0, quants: row_bytes(&self.quants, row) }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scale); 2]
    }

    #[inline(always)]
    fn offset(&self) -> Option<F32x4> {
        None
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.quants, visit);
    }
}

impl PanelBlock for Panel8Offset {
    const HALVES: bool = false;

    fn set_row(&mut self, row: usize, columns: &RowBlock) {
        self.scale[row] = columns.scales[0];
        self.offset[row] = columns.offset;
        set_bytes(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> RowBlock {
        let quants = row_bytes(&self.quants, row);
        RowBlock { scales: [self.scale[row]; 2], offset: self.offset[row], quants }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scale); 2]
    }

    #[inline(always)]
    fn offset(&self) -> Option<F32x4> {
        Some(F32x4::load(&self.offset))
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.quants, visit);
    }
}

impl PanelBlock for Panel8Halves {
    const HALVES: bool = true;

    fn set_row(&mut self, row: usize, columns: &RowBlock) {
        self.scales[0][row] = columns.scales[0];
        self.scales[1][row] = columns.scales[1];
        set_bytes(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> RowBlock {
        let scales = [self.scales[0][row], self.scales[1][row]];
        RowBlock { scales, offset: 0.0, quants: row_bytes(&self.quants, row) }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scales[0]), F32x4::load(&self.scales[1])]
    }

    #[inline(always)]
    fn offset(&self) -> Option<F32x4> {
        None
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.quants, visit);
    }
}

impl RowBlock {
    /// The weights, in the very operations of the formats' definitions, so that they are equal bit for bit.
    pub(super) fn decode(&self, out: &mut [f32; BLOCK]) {
        for (column, (out, quant)) in out.iter_mut().zip(self.quants).enumerate() {
            *out = self.scales[column / 16] * f32::from(quant) + self.offset;
        }
    }
}
