//! From file blocks to row blocks: what each format means in terms of [`RowBlock`].
//!
//! Principal function: [`split`]. Must not know panels or uploads.

use half::f16;

use super::activations::BLOCK;
use super::panel::RowBlock;
use crate::quant::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, k_scale_min,
};
use crate::tensor::DType;

/// Cuts the blocks of a row of `dtype` into row blocks, and calls `store(index, block)` for each.
/// Float formats have no row blocks: nothing is called.
pub(super) fn split(dtype: DType, row: &[u8], mut store: impl FnMut(usize, &RowBlock)) {
    let store = &mut store;
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {}
        DType::Q4_0 => each(row, store, q4_0),
        DType::Q4_1 => each(row, store, q4_1),
        DType::Q5_0 => each(row, store, q5_0),
        DType::Q5_1 => each(row, store, q5_1),
        DType::Q8_0 => each(row, store, q8_0),
        DType::Q4_K => each(row, store, q4_k),
        DType::Q5_K => each(row, store, q5_k),
        DType::Q6_K => each(row, store, q6_k),
    }
}

/// Blocks of `B` in `row`, each decoded to `N` row blocks.
fn each<B: bytemuck::AnyBitPattern, const N: usize>(
    row: &[u8],
    store: &mut impl FnMut(usize, &RowBlock),
    decode: fn(&B) -> [RowBlock; N],
) {
    let blocks = row.chunks_exact(size_of::<B>()).map(bytemuck::from_bytes::<B>);
    for (index, block) in blocks.enumerate() {
        for (part, columns) in decode(block).iter().enumerate() {
            store(index * N + part, columns);
        }
    }
}

fn value(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn nibbles(qs: &[u8; 16]) -> [i8; BLOCK] {
    std::array::from_fn(|i| (qs[i % 16] >> (i / 16 * 4) & 15) as i8)
}

fn nibbles_and_bit(qs: &[u8; 16], qh: [u8; 4]) -> [i8; BLOCK] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(qh));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as i8)
}

fn q4_0(block: &BlockQ4_0) -> [RowBlock; 1] {
    // Multiplying by 8 is exact, and so is the sum when decoding: the values are those of `d * (q - 8)`.
    let d = value(block.d);
    [RowBlock { scales: [d; 2], offset: -8.0 * d, quants: nibbles(&block.qs) }]
}

fn q4_1(block: &BlockQ4_1) -> [RowBlock; 1] {
    [RowBlock { scales: [value(block.d); 2], offset: value(block.m), quants: nibbles(&block.qs) }]
}

fn q5_0(block: &BlockQ5_0) -> [RowBlock; 1] {
    let quants = nibbles_and_bit(&block.qs, block.qh).map(|quant| quant - 16);
    [RowBlock { scales: [value(block.d); 2], offset: 0.0, quants }]
}

fn q5_1(block: &BlockQ5_1) -> [RowBlock; 1] {
    let quants = nibbles_and_bit(&block.qs, block.qh);
    [RowBlock { scales: [value(block.d); 2], offset: value(block.m), quants }]
}

fn q8_0(block: &BlockQ8_0) -> [RowBlock; 1] {
    [RowBlock { scales: [value(block.d); 2], offset: 0.0, quants: block.qs }]
}

fn q4_k(block: &BlockQ4K) -> [RowBlock; 8] {
    let (d, dmin) = (value(block.d), value(block.dmin));
    std::array::from_fn(|part| {
        let (scale, min) = k_scale_min(&block.scales, part);
        let group = &block.qs[part / 2 * 32..][..32];
        let quants = std::array::from_fn(|i| (group[i] >> (part % 2 * 4) & 15) as i8);
        RowBlock { scales: [d * f32::from(scale); 2], offset: -(dmin * f32::from(min)), quants }
    })
}

fn q5_k(block: &BlockQ5K) -> [RowBlock; 8] {
    let (d, dmin) = (value(block.d), value(block.dmin));
    std::array::from_fn(|part| {
        let (scale, min) = k_scale_min(&block.scales, part);
        let group = &block.qs[part / 2 * 32..][..32];
        let quant = |i: usize| group[i] >> (part % 2 * 4) & 15 | (block.qh[i] >> part & 1) << 4;
        let quants = std::array::from_fn(|i| quant(i) as i8);
        RowBlock { scales: [d * f32::from(scale); 2], offset: -(dmin * f32::from(min)), quants }
    })
}

fn q6_k(block: &BlockQ6K) -> [RowBlock; 8] {
    let d = value(block.d);
    std::array::from_fn(|part| {
        let (half, run) = (part / 4, part % 4);
        let ql = &block.ql[64 * half + 32 * (run % 2)..][..32];
        let qh = &block.qh[32 * half..][..32];
        let quant = |i: usize| ql[i] >> (run / 2 * 4) & 15 | (qh[i] >> (2 * run) & 3) << 4;
        let quants = std::array::from_fn(|i| quant(i) as i8 - 32);
        let scale = |index: usize| d * f32::from(block.scales[2 * part + index]);
        RowBlock { scales: [scale(0), scale(1)], offset: 0.0, quants }
    })
}
