//! One matrix product, whatever the weight's layout.
//!
//! Principal function: [`product`]. Must not know ops.

use super::activations::{Activations, BLOCK};
use super::floats;
use super::matmul::{self, Finish, Unpacked};
use super::panel::{PanelBlock, ROWS};
use super::weights::{Store, Weight};
use crate::model::graph::ValueId;

/// Memory that a product needs besides its operands.
pub(super) struct Scratch<'a> {
    pub(super) activations: &'a mut Activations,
    /// `[>= n_cols]`
    pub(super) row: &'a mut [f32],
    /// `[>= n_cols / BLOCK]`
    pub(super) unpacked: &'a mut [Unpacked],
}

/// `out: [n_tokens, n_rows]` from section `section` of `weight` and `x: [n_tokens, n_cols]`; `source` names `x`, so that
/// consecutive products can share what is derived from it.
pub(super) fn product(
    weight: &Weight,
    section: usize,
    scratch: Scratch,
    source: ValueId,
    x: &[f32],
    finish: &Finish,
    out: &mut [f32],
) {
    let (n_cols, n_rows) = (weight.decl.n_cols, weight.section_rows);
    let floats = section * n_rows * n_cols..(section + 1) * n_rows * n_cols;
    let row = &mut scratch.row[..n_cols];
    match &weight.store {
        Store::Panel4(blocks) => panels(blocks, weight, section, scratch, source, x, finish, out),
        Store::Panel4Halves(blocks) => panels(blocks, weight, section, scratch, source, x, finish, out),
        Store::Panel8(blocks) => panels(blocks, weight, section, scratch, source, x, finish, out),
        Store::Panel8Offset(blocks) => panels(blocks, weight, section, scratch, source, x, finish, out),
        Store::Panel8Halves(blocks) => panels(blocks, weight, section, scratch, source, x, finish, out),
        Store::F32(values) => {
            let values = &values[floats];
            let decode =
                |index: usize, row: &mut [f32]| row.copy_from_slice(&values[index * n_cols..][..n_cols]);
            floats::float_rows(decode, row, x, n_rows, finish, out);
        }
        Store::F16(values) => {
            let values = &values[floats];
            let decode =
                |index: usize, row: &mut [f32]| floats::decode_f16(&values[index * n_cols..][..n_cols], row);
            floats::float_rows(decode, row, x, n_rows, finish, out);
        }
        Store::Bf16(values) => {
            let values = &values[floats];
            let decode =
                |index: usize, row: &mut [f32]| floats::decode_bf16(&values[index * n_cols..][..n_cols], row);
            floats::float_rows(decode, row, x, n_rows, finish, out);
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the operands of a product and where its weight begins")]
fn panels<B: PanelBlock>(
    blocks: &[B],
    weight: &Weight,
    section: usize,
    scratch: Scratch,
    source: ValueId,
    x: &[f32],
    finish: &Finish,
    out: &mut [f32],
) {
    let (n_cols, n_rows) = (weight.decl.n_cols, weight.section_rows);
    let n_blocks = n_rows.div_ceil(ROWS) * (n_cols / BLOCK);
    let blocks = &blocks[section * n_blocks..][..n_blocks];
    scratch.activations.set(source, x, n_cols);
    matmul::panels(blocks, n_cols, scratch.activations, scratch.unpacked, n_rows, finish, out);
}
