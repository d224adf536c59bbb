//! The layouts of repacked weights: panels of four rows, in blocks of 32 columns.
//!
//! Principal trait: [`PanelBlock`]. Many file formats, five layouts: 4-bit quants with an offset (such as Q4_K), or with
//! a scale and an offset for each 16 columns (Q2_K), bytes with one scale (Q8_0), with an offset as well (Q5_K), and
//! with a scale for each 16 columns (Q6_K). Sixteen bytes hold four columns of each of the four rows, so a vector of
//! products has one lane per row and no sum across lanes is needed. Must not know file formats.

use bytemuck::{Pod, Zeroable};

use super::activations::BLOCK;
use crate::backend::cpu::simd::{F32x4, I16x8, unrolled};
use crate::quant::Chunk;

/// Rows of a panel.
pub(super) const ROWS: usize = 4;

/// Vectors of products per block: each takes two columns of the four rows.
pub(super) const PAIRS: usize = BLOCK / 2;

/// 32 columns of four rows.
pub(super) trait PanelBlock: Pod {
    /// Whether columns 16..32 have their own scales and offsets.
    const HALVES: bool;

    /// Stores the columns of row `row`.
    fn set_row(&mut self, row: usize, columns: &Chunk);

    /// The columns of row `row` as stored.
    fn row(&self, row: usize) -> Chunk;

    /// Scales of the four rows, of columns 0..16 and 16..32.
    fn scales(&self) -> [F32x4; 2];

    /// Offsets of the four rows, if the layout has them: of all columns, or of columns 0..16 and 16..32.
    fn offsets(&self) -> Option<[F32x4; 2]>;

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

/// As [`Panel4`], with scales and offsets for each 16 columns.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Panel4Halves {
    scales: [[f32; ROWS]; 2],
    offsets: [[f32; ROWS]; 2],
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

    fn set_row(&mut self, row: usize, columns: &Chunk) {
        self.scale[row] = columns.scales[0];
        self.offset[row] = columns.offsets[0];
        set_nibbles(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> Chunk {
        let codes = row_nibbles(&self.quants, row);
        Chunk { scales: [self.scale[row]; 2], offsets: [self.offset[row]; 2], codes }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scale); 2]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[F32x4; 2]> {
        Some([F32x4::load(&self.offset); 2])
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_nibbles(&self.quants, visit);
    }
}

impl PanelBlock for Panel4Halves {
    const HALVES: bool = true;

    fn set_row(&mut self, row: usize, columns: &Chunk) {
        for half in 0..2 {
            self.scales[half][row] = columns.scales[half];
            self.offsets[half][row] = columns.offsets[half];
        }
        set_nibbles(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> Chunk {
        let [scales, offsets] = [self.scales, self.offsets].map(|both| both.map(|rows| rows[row]));
        Chunk { scales, offsets, codes: row_nibbles(&self.quants, row) }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scales[0]), F32x4::load(&self.scales[1])]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[F32x4; 2]> {
        Some([F32x4::load(&self.offsets[0]), F32x4::load(&self.offsets[1])])
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_nibbles(&self.quants, visit);
    }
}

#[inline(always)]
pub(super) fn visit_nibbles(quants: &[[u8; 16]; 4], mut visit: impl FnMut(usize, I16x8)) {
    let nibble = I16x8::splat(15);
    unrolled!(j in [0, 1, 2, 3] {
        let vector = I16x8::load_bytes(&quants[j]);
        visit(2 * j, vector.and(nibble));
        visit(2 * j + 1, vector.shr::<8>().and(nibble));
        visit(PAIRS / 2 + 2 * j, vector.shr::<4>().and(nibble));
        visit(PAIRS / 2 + 2 * j + 1, vector.shr::<12>());
    });
}

fn set_nibbles(quants: &mut [[u8; 16]; 4], row: usize, columns: &Chunk) {
    for (j, vector) in quants.iter_mut().enumerate() {
        for (i, byte) in vector[4 * row..][..4].iter_mut().enumerate() {
            *byte = columns.codes[4 * j + i] as u8 | (columns.codes[16 + 4 * j + i] as u8) << 4;
        }
    }
}

fn row_nibbles(quants: &[[u8; 16]; 4], row: usize) -> [i8; BLOCK] {
    std::array::from_fn(|column| {
        let byte = quants[column % 16 / 4][4 * row + column % 4];
        (byte >> (column / 16 * 4) & 15) as i8
    })
}

#[inline(always)]
pub(super) fn visit_bytes(quants: &[[u8; 16]; 8], mut visit: impl FnMut(usize, I16x8)) {
    unrolled!(j in [0, 1, 2, 3, 4, 5, 6, 7] {
        let vector = I16x8::load_bytes(&quants[j]);
        visit(2 * j, vector.shl::<8>().sar::<8>());
        visit(2 * j + 1, vector.sar::<8>());
    });
}

fn set_bytes(quants: &mut [[u8; 16]; 8], row: usize, columns: &Chunk) {
    for (vector, columns) in quants.iter_mut().zip(columns.codes.as_chunks::<4>().0) {
        vector[4 * row..][..4].copy_from_slice(&columns.map(|quant| quant as u8));
    }
}

fn row_bytes(quants: &[[u8; 16]; 8], row: usize) -> [i8; BLOCK] {
    std::array::from_fn(|column| quants[column / 4][4 * row + column % 4] as i8)
}

impl PanelBlock for Panel8 {
    const HALVES: bool = false;

    fn set_row(&mut self, row: usize, columns: &Chunk) {
        self.scale[row] = columns.scales[0];
        set_bytes(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> Chunk {
        Chunk::new(self.scale[row], row_bytes(&self.quants, row))
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scale); 2]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[F32x4; 2]> {
        None
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.quants, visit);
    }
}

impl PanelBlock for Panel8Offset {
    const HALVES: bool = false;

    fn set_row(&mut self, row: usize, columns: &Chunk) {
        self.scale[row] = columns.scales[0];
        self.offset[row] = columns.offsets[0];
        set_bytes(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> Chunk {
        let codes = row_bytes(&self.quants, row);
        Chunk { scales: [self.scale[row]; 2], offsets: [self.offset[row]; 2], codes }
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scale); 2]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[F32x4; 2]> {
        Some([F32x4::load(&self.offset); 2])
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.quants, visit);
    }
}

impl PanelBlock for Panel8Halves {
    const HALVES: bool = true;

    fn set_row(&mut self, row: usize, columns: &Chunk) {
        self.scales[0][row] = columns.scales[0];
        self.scales[1][row] = columns.scales[1];
        set_bytes(&mut self.quants, row, columns);
    }

    fn row(&self, row: usize) -> Chunk {
        let scales = [self.scales[0][row], self.scales[1][row]];
        Chunk::halves(scales, row_bytes(&self.quants, row))
    }

    #[inline(always)]
    fn scales(&self) -> [F32x4; 2] {
        [F32x4::load(&self.scales[0]), F32x4::load(&self.scales[1])]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[F32x4; 2]> {
        None
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.quants, visit);
    }
}
