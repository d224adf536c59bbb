//! Weights as the fast kernels read them, filled piece by piece.
//!
//! Principal type: [`Weight`]. Complete groups of rows are repacked as their bytes arrive, so that beside the packed
//! weights only the bytes of an incomplete group are held. Must not know ops.

use super::activations::BLOCK;
use super::panel::{Panel4, Panel4Halves, Panel8, Panel8Halves, Panel8Offset, PanelBlock, ROWS};
use crate::backend::cpu::plan::with_capacity;
use crate::backend::cpu::{check_complete, check_piece};
use crate::error::Result;
use crate::model::graph::{WeightDecl, WeightKind};
use crate::quant::{self, Chunk, Format, Packing};
use crate::tensor::DType;

/// A weight and how much of it has arrived.
pub(super) struct Weight {
    pub(super) decl: WeightDecl,
    /// Rows of one of its sections (experts): each begins with a panel of its own.
    pub(super) section_rows: usize,
    format: &'static Format,
    /// Bytes in the file: of a row, of the whole, and arrived so far.
    row_bytes: usize,
    n_bytes: usize,
    received: usize,
    /// Bytes of the group of rows under way.
    staging: Vec<u8>,
    pub(super) store: Store,
}

/// The repacked rows. Panels: `[n_sections, ceil(section_rows / ROWS), n_cols / BLOCK]`, absent rows zero.
pub(super) enum Store {
    Panel4(Vec<Panel4>),
    Panel4Halves(Vec<Panel4Halves>),
    Panel8(Vec<Panel8>),
    Panel8Offset(Vec<Panel8Offset>),
    Panel8Halves(Vec<Panel8Halves>),
    /// Decoded floats: F32 matrices and all vectors.
    F32(Vec<f32>),
    /// f16 bits.
    F16(Vec<u16>),
    /// bf16 bits.
    Bf16(Vec<u16>),
}

impl Weight {
    /// Of `n_sections` equal runs of rows. Nothing is allocated before the first piece.
    pub(super) fn new(decl: &WeightDecl, dtype: DType, n_sections: usize) -> Weight {
        let section_rows = decl.n_rows / n_sections;
        let format = quant::format(dtype);
        let store = match format.packing {
            _ if decl.kind == WeightKind::Vector => Store::F32(Vec::new()),
            Packing::Float => match dtype {
                // 8-bit floats are half floats, too.
                DType::F16 | DType::F8_E4M3 | DType::F8_E5M2 => Store::F16(Vec::new()),
                DType::BF16 => Store::Bf16(Vec::new()),
                _ => Store::F32(Vec::new()),
            },
            Packing::Nibbles | Packing::SignedNibbles => Store::Panel4(Vec::new()),
            Packing::NibbleHalves | Packing::SignedNibbleHalves => Store::Panel4Halves(Vec::new()),
            Packing::Bytes => Store::Panel8(Vec::new()),
            Packing::BytesOffset => Store::Panel8Offset(Vec::new()),
            Packing::BytesHalves => Store::Panel8Halves(Vec::new()),
        };
        let row_bytes = decl.n_cols / format.block_len * format.block_bytes;
        let n_bytes = row_bytes * decl.n_rows;
        let (decl, staging) = (decl.clone(), Vec::new());
        Weight { decl, section_rows, format, row_bytes, n_bytes, received: 0, staging, store }
    }

    /// Bytes that it will take once it is repacked.
    pub(super) fn packed_bytes(&self) -> u64 {
        let (n_cols, n_rows) = (self.decl.n_cols as u64, self.decl.n_rows as u64);
        let section_rows = self.section_rows.max(1) as u64;
        let n_panels = n_rows / section_rows * section_rows.div_ceil(ROWS as u64);
        let panels = |size: usize| n_panels * (n_cols / BLOCK as u64) * size as u64;
        match self.store {
            Store::Panel4(_) => panels(size_of::<Panel4>()),
            Store::Panel4Halves(_) => panels(size_of::<Panel4Halves>()),
            Store::Panel8(_) => panels(size_of::<Panel8>()),
            Store::Panel8Offset(_) => panels(size_of::<Panel8Offset>()),
            Store::Panel8Halves(_) => panels(size_of::<Panel8Halves>()),
            Store::F32(_) => 4 * n_cols * n_rows,
            Store::F16(_) | Store::Bf16(_) => 2 * n_cols * n_rows,
        }
    }

    /// Stores the next piece.
    /// # Errors
    /// `Internal` for a piece out of order, `OutOfMemory`.
    pub(super) fn upload(&mut self, offset: u64, mut bytes: &[u8]) -> Result<()> {
        check_piece(&self.decl, self.received, self.n_bytes, offset, bytes)?;
        if self.received == 0 {
            self.allocate()?;
        }
        while !bytes.is_empty() {
            let group_start = self.received - self.staging.len();
            let section_bytes = self.section_rows * self.row_bytes;
            let group_bytes = (ROWS * self.row_bytes).min(section_bytes - group_start % section_bytes);
            let (taken, rest) = bytes.split_at(bytes.len().min(group_bytes - self.staging.len()));
            self.received += taken.len();
            bytes = rest;
            if taken.len() == group_bytes {
                self.append_group(taken);
                continue;
            }
            self.staging.extend_from_slice(taken);
            if self.staging.len() == group_bytes {
                let group = std::mem::take(&mut self.staging);
                self.append_group(&group);
                self.staging = group;
                self.staging.clear();
            }
        }
        Ok(())
    }

    /// Frees what only the upload needed.
    /// # Errors
    /// `Truncated` when pieces are missing.
    pub(super) fn finish(&mut self) -> Result<()> {
        check_complete(&self.decl, self.received, self.n_bytes)?;
        self.staging = Vec::new();
        Ok(())
    }

    fn allocate(&mut self) -> Result<()> {
        const WHAT: &str = "weights";
        let n_elements = self.decl.n_rows * self.decl.n_cols;
        let n_panels = self.decl.n_rows / self.section_rows * self.section_rows.div_ceil(ROWS);
        let n_blocks = n_panels * (self.decl.n_cols / BLOCK);
        match &mut self.store {
            Store::Panel4(blocks) => *blocks = with_capacity(n_blocks, WHAT)?,
            Store::Panel4Halves(blocks) => *blocks = with_capacity(n_blocks, WHAT)?,
            Store::Panel8(blocks) => *blocks = with_capacity(n_blocks, WHAT)?,
            Store::Panel8Offset(blocks) => *blocks = with_capacity(n_blocks, WHAT)?,
            Store::Panel8Halves(blocks) => *blocks = with_capacity(n_blocks, WHAT)?,
            Store::F32(values) => *values = with_capacity(n_elements, WHAT)?,
            Store::F16(values) | Store::Bf16(values) => *values = with_capacity(n_elements, WHAT)?,
        }
        Ok(())
    }

    /// Repacks a group of up to [`ROWS`] whole rows.
    fn append_group(&mut self, group: &[u8]) {
        let (format, row_bytes, n_cols) = (self.format, self.row_bytes, self.decl.n_cols);
        match &mut self.store {
            Store::Panel4(blocks) => append_panel(blocks, format, group, row_bytes, n_cols),
            Store::Panel4Halves(blocks) => append_panel(blocks, format, group, row_bytes, n_cols),
            Store::Panel8(blocks) => append_panel(blocks, format, group, row_bytes, n_cols),
            Store::Panel8Offset(blocks) => append_panel(blocks, format, group, row_bytes, n_cols),
            Store::Panel8Halves(blocks) => append_panel(blocks, format, group, row_bytes, n_cols),
            Store::F32(values) => {
                let start = values.len();
                values.resize(start + group.len() / row_bytes * n_cols, 0.0);
                (format.dequant)(group, &mut values[start..]);
            }
            Store::F16(values) if format.block_bytes == 1 => values.extend(group.chunks(1).map(|byte| {
                let mut value = [0.0];
                (format.dequant)(byte, &mut value);
                half::f16::from_f32(value[0]).to_bits()
            })),
            Store::F16(values) | Store::Bf16(values) => {
                values.extend(group.as_chunks::<2>().0.iter().map(|bits| u16::from_le_bytes(*bits)));
            }
        }
    }

    /// Decodes row `index` of the first section into `out: [n_cols]`, exactly as the format says.
    pub(super) fn decode_row(&self, index: usize, out: &mut [f32]) {
        let n_cols = self.decl.n_cols;
        let floats = index * n_cols..(index + 1) * n_cols;
        match &self.store {
            Store::Panel4(blocks) => decode_panel_row(blocks, index, out),
            Store::Panel4Halves(blocks) => decode_panel_row(blocks, index, out),
            Store::Panel8(blocks) => decode_panel_row(blocks, index, out),
            Store::Panel8Offset(blocks) => decode_panel_row(blocks, index, out),
            Store::Panel8Halves(blocks) => decode_panel_row(blocks, index, out),
            Store::F32(values) => out.copy_from_slice(&values[floats]),
            Store::F16(values) => {
                for (out, bits) in out.iter_mut().zip(&values[floats]) {
                    *out = half::f16::from_bits(*bits).to_f32();
                }
            }
            Store::Bf16(values) => {
                for (out, bits) in out.iter_mut().zip(&values[floats]) {
                    *out = half::bf16::from_bits(*bits).to_f32();
                }
            }
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.staging.capacity()
            + match &self.store {
                Store::Panel4(blocks) => size_of_val(blocks.as_slice()),
                Store::Panel4Halves(blocks) => size_of_val(blocks.as_slice()),
                Store::Panel8(blocks) => size_of_val(blocks.as_slice()),
                Store::Panel8Offset(blocks) => size_of_val(blocks.as_slice()),
                Store::Panel8Halves(blocks) => size_of_val(blocks.as_slice()),
                Store::F32(values) => size_of_val(values.as_slice()),
                Store::F16(values) | Store::Bf16(values) => size_of_val(values.as_slice()),
            }
    }
}

fn append_panel<B: PanelBlock>(
    blocks: &mut Vec<B>,
    format: &Format,
    group: &[u8],
    row_bytes: usize,
    n_cols: usize,
) {
    let start = blocks.len();
    blocks.resize(start + n_cols / BLOCK, B::zeroed());
    let panel = &mut blocks[start..];
    for (row, bytes) in group.chunks_exact(row_bytes).enumerate() {
        (format.chunks)(bytes, &mut |index, chunk| match format.packing {
            Packing::SignedNibbles | Packing::SignedNibbleHalves => panel[index].set_row(row, &raised(chunk)),
            _ => panel[index].set_row(row, chunk),
        });
    }
}

/// Signed codes of four bits as unsigned ones with an offset. The offset is exact, being a power of two times the scale,
/// and so is its sum with a product, which is the scale times a small number.
fn raised(chunk: &Chunk) -> Chunk {
    let offsets = chunk.scales.map(|scale| -8.0 * scale);
    Chunk { offsets, codes: chunk.codes.map(|code| code + 8), ..*chunk }
}

fn decode_panel_row<B: PanelBlock>(blocks: &[B], row: usize, out: &mut [f32]) {
    let n_blocks = out.len() / BLOCK;
    let panel = &blocks[row / ROWS * n_blocks..][..n_blocks];
    for (block, out) in panel.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        block.row(row % ROWS).decode(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Block bytes with small finite scales: every second byte of an f16 scale is below 0x3c.
    fn bytes(n_bytes: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x3b
        };
        (0..n_bytes).map(|_| next()).collect()
    }

    #[test]
    fn rows_decode_to_the_bits_of_the_format_however_they_arrive() {
        for format in quant::FORMATS {
            for n_rows in [1, 4, 7] {
                let decl = WeightDecl {
                    name: "w".into(),
                    part_of: None,
                    n_cols: 512,
                    n_rows,
                    kind: WeightKind::Matrix,
                };
                let n_bytes = 512 / format.block_len * format.block_bytes * n_rows;
                let bytes = bytes(n_bytes);
                let mut expected = vec![0f32; 512 * n_rows];
                (format.dequant)(&bytes, &mut expected);
                for piece in [4, 100, 1000, n_bytes] {
                    let mut weight = Weight::new(&decl, format.dtype, 1);
                    for (index, part) in bytes.chunks(piece).enumerate() {
                        weight.upload((index * piece) as u64, part).expect("in order");
                    }
                    weight.finish().expect("complete");
                    assert_eq!(weight.memory_bytes() as u64, weight.packed_bytes());
                    let mut row = vec![f32::NAN; 512];
                    for index in 0..n_rows {
                        weight.decode_row(index, &mut row);
                        let at = format!("{} row {index} of {n_rows}, pieces of {piece}", format.name);
                        assert_eq!(row, expected[index * 512..][..512], "{at}");
                    }
                }
            }
        }
    }
}
