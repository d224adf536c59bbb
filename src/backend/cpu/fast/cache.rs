//! The KV cache in any of its formats.
//!
//! Principal type: [`Cache`], in pages that are made as positions are used. Keys lie in tiles of four positions, so that
//! one vector of scores has a lane per position. Float values lie in rows of eight elements, and a pass sums them where
//! they stand; quantised ones lie in panels of four elements by 32 positions, so that integer dots sum over positions.
//! Must not know queries.

use half::f16;

use super::activations::BLOCK;
use super::codes::{Codes, Codes4, Codes8, PANEL};
use crate::backend::KV_PAGE;
use crate::backend::cpu::plan::zeroed;
use crate::backend::cpu::simd::F32x4;
use crate::error::Result;
use crate::model::graph::KvDecl;
use crate::quant::{self, Format};
use crate::tensor::DType;

/// Queries of a pass, and positions of a tile of keys.
pub(super) const ROWS: usize = 4;

/// Elements of a head that the inner loops over floats take at a time.
pub(super) const STEP: usize = 8;

/// Keys, or values, of all heads of a page; `n_ctx` counts its positions.
pub(super) enum Rows {
    /// Keys `[n_kv_heads, n_ctx / ROWS, width, ROWS]`, values `[n_kv_heads, width / STEP, n_ctx, STEP]`.
    F32(Vec<f32>),
    /// As f32; f16 bits.
    F16(Vec<u16>),
    /// Keys `[n_kv_heads, n_ctx / 4, width / 32]`, values `[n_kv_heads, n_ctx / 32, width / 4]`.
    Q8(Vec<Codes8>),
    /// As bytes.
    Q4(Vec<Codes4>),
}

/// Keys and values of one layer.
pub(super) struct Cache {
    pub(super) decl: KvDecl,
    format: &'static Format,
    /// Positions, filled up to whole tiles or blocks.
    pub(super) n_ctx: usize,
    /// Width of a head, filled up with zeros to whole steps or blocks.
    pub(super) width: usize,
    /// Of [`KV_PAGE`] positions each, the last of what is left; as many as have been used.
    pages: Vec<Page>,
    /// Most pages: behind these, the first comes again.
    n_pages: usize,
}

/// Keys and values of a run of positions.
pub(super) struct Page {
    /// Positions, filled up to whole tiles or blocks.
    pub(super) n_ctx: usize,
    pub(super) k: Rows,
    pub(super) v: Rows,
}

/// A float of the cache.
pub(super) trait Float: Copy {
    fn from_f32(value: f32) -> Self;
    fn load(from: &[Self; 4]) -> F32x4;
}

impl Float for f32 {
    fn from_f32(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn load(from: &[f32; 4]) -> F32x4 {
        F32x4::load(from)
    }
}

impl Float for u16 {
    /// Values beyond f16's range become its largest: [`F32x4::load_f16`] knows no infinities. NaN becomes a large value.
    fn from_f32(value: f32) -> u16 {
        const LARGEST: f32 = 65504.0;
        f16::from_f32(value.clamp(-LARGEST, LARGEST)).to_bits()
    }

    #[inline(always)]
    fn load(from: &[u16; 4]) -> F32x4 {
        F32x4::load_f16(from)
    }
}

/// `n_ctx` and `head_dim` filled up.
fn filled(dtype: DType, decl: &KvDecl, n_ctx: usize) -> (usize, usize) {
    match dtype {
        DType::F32 | DType::F16 => (n_ctx.next_multiple_of(ROWS), decl.head_dim.next_multiple_of(STEP)),
        _ => (n_ctx.next_multiple_of(BLOCK), decl.head_dim.next_multiple_of(BLOCK)),
    }
}

impl Rows {
    /// # Errors
    /// `OutOfMemory`.
    fn new(dtype: DType, len: usize) -> Result<Rows> {
        const WHAT: &str = "KV cache";
        Ok(match dtype {
            DType::F32 => Rows::F32(zeroed(len, WHAT)?),
            DType::F16 => Rows::F16(zeroed(len, WHAT)?),
            DType::Q8_0 => Rows::Q8(zeroed(len / PANEL, WHAT)?),
            _ => Rows::Q4(zeroed(len / PANEL, WHAT)?),
        })
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Rows::F32(rows) => size_of_val(rows.as_slice()),
            Rows::F16(rows) => size_of_val(rows.as_slice()),
            Rows::Q8(panels) => size_of_val(panels.as_slice()),
            Rows::Q4(panels) => size_of_val(panels.as_slice()),
        }
    }
}

/// Where a head's row goes.
struct Place<'a> {
    format: &'a Format,
    /// Whether it is of values.
    is_v: bool,
    head: usize,
    pos: usize,
    n_ctx: usize,
    width: usize,
}

impl Place<'_> {
    fn write(&self, rows: &mut Rows, values: &[f32]) {
        match rows {
            Rows::F32(rows) => self.floats(rows, values),
            Rows::F16(rows) => self.floats(rows, values),
            Rows::Q8(panels) => self.codes(panels, values),
            Rows::Q4(panels) => self.codes(panels, values),
        }
    }

    fn floats<E: Float>(&self, rows: &mut [E], values: &[f32]) {
        let Place { is_v, pos, n_ctx, width, .. } = *self;
        let head = &mut rows[self.head * n_ctx * width..][..n_ctx * width];
        for (index, value) in values.iter().enumerate() {
            let at = match is_v {
                true => (index / STEP * n_ctx + pos) * STEP + index % STEP,
                false => (pos / ROWS * width + index) * ROWS + pos % ROWS,
            };
            head[at] = E::from_f32(*value);
        }
    }

    /// Blocks are those that the weights' format of the same name would have.
    fn codes<C: Codes>(&self, panels: &mut [C], values: &[f32]) {
        let Place { is_v, pos, n_ctx, width, format, .. } = *self;
        let n_panels = n_ctx * width / PANEL;
        let head = &mut panels[self.head * n_panels..][..n_panels];
        let quantize = format.quantize.expect("invariant: caches have formats that can be written");
        let (mut block, mut bytes) = ([0.0; BLOCK], [0; BLOCK + 2]);
        let bytes = &mut bytes[..format.block_bytes];
        for (index, values) in values.chunks(BLOCK).enumerate() {
            block[..values.len()].copy_from_slice(values);
            block[values.len()..].fill(0.0);
            quantize(&block, None, bytes);
            (format.chunks)(bytes, &mut |_, chunk| {
                if !is_v {
                    let panel = &mut head[pos / ROWS * (width / BLOCK) + index];
                    panel.scale_mut()[pos % ROWS] = chunk.scales[0];
                    chunk.codes.iter().enumerate().for_each(|(at, code)| panel.set(pos % ROWS, at, *code));
                    return;
                }
                // The scales of 32 positions are spread over the eight panels of a block of elements.
                let panels = &mut head[pos / BLOCK * (width / ROWS) + index * (BLOCK / ROWS)..];
                let column = pos % BLOCK;
                panels[column / ROWS].scale_mut()[column % ROWS] = chunk.scales[0];
                for (at, code) in chunk.codes.iter().enumerate() {
                    panels[at / ROWS].set(at % ROWS, column, *code);
                }
            });
        }
    }
}

impl Cache {
    /// Bytes that the keys and values take when `n_kept` of `n_ctx` positions are kept.
    pub(super) fn bytes(dtype: DType, decl: &KvDecl, n_ctx: usize, n_kept: usize) -> u64 {
        let n_ctx = n_ctx.min(n_kept.next_multiple_of(KV_PAGE));
        let panel_bytes = match dtype {
            DType::F32 => PANEL * size_of::<f32>(),
            DType::F16 => PANEL * size_of::<u16>(),
            DType::Q8_0 => size_of::<Codes8>(),
            _ => size_of::<Codes4>(),
        };
        let (n_ctx, width) = filled(dtype, decl, n_ctx);
        let len = decl.n_kv_heads as u64 * n_ctx as u64 * width as u64;
        2 * (len * panel_bytes as u64 / PANEL as u64)
    }

    /// Of `n_ctx` positions, of which the last `n_kept` at least are kept; without a page.
    pub(super) fn new(dtype: DType, decl: KvDecl, n_ctx: usize, n_kept: usize) -> Cache {
        let (n_ctx, width) = filled(dtype, &decl, n_ctx);
        let (format, n_pages) = (quant::format(dtype), n_kept.div_ceil(KV_PAGE));
        Cache { decl, format, n_ctx, width, pages: Vec::new(), n_pages }
    }

    /// Makes the pages of the first `end` positions.
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn reserve(&mut self, end: usize) -> Result<()> {
        while self.pages.len() < self.n_pages && self.pages.len() * KV_PAGE < end {
            let n_ctx = KV_PAGE.min(self.n_ctx - self.pages.len() * KV_PAGE);
            let len = self.decl.n_kv_heads * n_ctx * self.width;
            let (k, v) = (Rows::new(self.format.dtype, len)?, Rows::new(self.format.dtype, len)?);
            self.pages.push(Page { n_ctx, k, v });
        }
        Ok(())
    }

    /// Whether it holds integers, in panels.
    pub(super) fn is_coded(&self) -> bool {
        !matches!(self.format.dtype, DType::F32 | DType::F16)
    }

    /// The page of `pos`.
    pub(super) fn page(&self, pos: usize) -> &Page {
        &self.pages[pos / KV_PAGE % self.n_pages]
    }

    /// Stores `k, v: [n_kv_heads, head_dim]` at `pos`, which has a page.
    pub(super) fn write(&mut self, pos: usize, k: &[f32], v: &[f32]) {
        let Cache { decl, format, width, .. } = *self;
        let Page { n_ctx, k: keys, v: others } = &mut self.pages[pos / KV_PAGE % self.n_pages];
        for (rows, values, is_v) in [(keys, k, false), (others, v, true)] {
            for (head, values) in values.chunks_exact(decl.head_dim).enumerate() {
                Place { format, is_v, head, pos: pos % KV_PAGE, n_ctx: *n_ctx, width }.write(rows, values);
            }
        }
    }

    /// Fills the positions from `pos` on with the largest values, which no computation survives unnoticed.
    pub(super) fn poison(&mut self, pos: usize) {
        let KvDecl { n_kv_heads, head_dim, window } = self.decl;
        // What a window shows before `pos` stays, from a whole block on.
        let behind = window.map_or(0, |window| (pos + 1).saturating_sub(window) / BLOCK * BLOCK);
        let largest = vec![f32::MAX; n_kv_heads * head_dim];
        for pos in pos..self.n_ctx.min(behind + self.n_pages * KV_PAGE) {
            if pos / KV_PAGE % self.n_pages < self.pages.len() {
                self.write(pos, &largest, &largest);
            }
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.iter().map(|page| page.k.memory_bytes() + page.v.memory_bytes()).sum()
    }
}
