//! Panels of a quantised KV cache: four rows by 32 columns of codes, and their products with rounded activations.
//!
//! Principal trait: [`Codes`]. Of keys a row is a position and a column an element, of values the other way round; either
//! way a scale belongs to a position. Must not know where a panel stands.

use bytemuck::{Pod, Zeroable};

use super::activations::{ActBlock, BLOCK};
use super::panel::{ROWS, visit_bytes, visit_nibbles};
use crate::backend::cpu::simd::{F32x4, I16x8, I32x4, unrolled};

/// Elements of a panel.
pub(super) const PANEL: usize = ROWS * BLOCK;

/// A panel.
pub(super) trait Codes: Pod {
    /// What stands for zero is stored as minus this.
    const OFFSET: f32;

    /// Scales of four positions.
    fn scale(&self) -> &[f32; ROWS];

    /// The same to write.
    fn scale_mut(&mut self) -> &mut [f32; ROWS];

    /// Stores a code.
    fn set(&mut self, row: usize, column: usize, code: i8);

    /// As [`super::panel::PanelBlock::visit_pairs`].
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8));
}

/// Signed bytes.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Codes8 {
    scale: [f32; ROWS],
    codes: [[u8; 16]; 8],
}

/// Codes -8..8 as nibbles 0..16.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Codes4 {
    scale: [f32; ROWS],
    codes: [[u8; 16]; 4],
}

impl Codes for Codes8 {
    const OFFSET: f32 = 0.0;

    #[inline(always)]
    fn scale(&self) -> &[f32; ROWS] {
        &self.scale
    }

    fn scale_mut(&mut self) -> &mut [f32; ROWS] {
        &mut self.scale
    }

    fn set(&mut self, row: usize, column: usize, code: i8) {
        self.codes[column / 4][4 * row + column % 4] = code as u8;
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_bytes(&self.codes, visit);
    }
}

impl Codes for Codes4 {
    const OFFSET: f32 = -8.0;

    #[inline(always)]
    fn scale(&self) -> &[f32; ROWS] {
        &self.scale
    }

    fn scale_mut(&mut self) -> &mut [f32; ROWS] {
        &mut self.scale
    }

    fn set(&mut self, row: usize, column: usize, code: i8) {
        let byte = &mut self.codes[column % 16 / 4][4 * row + column % 4];
        let shift = column / 16 * 4;
        *byte = *byte & !(15 << shift) | ((code + 8) as u8) << shift;
    }

    #[inline(always)]
    fn visit_pairs(&self, visit: impl FnMut(usize, I16x8)) {
        visit_nibbles(&self.codes, visit);
    }
}

/// The dot products of the four rows of a run of panels with the first `T` of as many rounded rows each. Scales belong to
/// rows where `scaled`; else they are in the activations already.
#[inline(never)]
pub(super) fn dots<C: Codes, const T: usize>(
    panels: &[C],
    acts: &[ActBlock<ROWS>],
    scaled: bool,
) -> [F32x4; T] {
    const { assert!(T <= ROWS && ROWS == 4) };
    let mut sums = [F32x4::ZERO; T];
    for (panel, act) in panels.iter().zip(acts) {
        let mut products = [I32x4::ZERO; T];
        panel.visit_pairs(|pair, codes| {
            unrolled!(t in [0, 1, 2, 3] {
                if t < T {
                    products[t] = products[t] + codes.dot(I16x8::splat_pair(act.words[pair][t]));
                }
            });
        });
        let scale = if scaled { F32x4::load(panel.scale()) } else { F32x4::splat(1.0) };
        unrolled!(t in [0, 1, 2, 3] {
            if t < T {
                let product = F32x4::from_i32(products[t]) * F32x4::splat(act.scale[t]);
                sums[t] = sums[t] + (product + F32x4::splat(C::OFFSET * act.sum[t])) * scale;
            }
        });
    }
    sums
}
