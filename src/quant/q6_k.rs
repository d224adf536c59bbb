//! Q6_K: 256 weights of 6 bits in sixteen sub-blocks with signed byte scales. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode, each_chunk, f16_is_finite, f16_value, first_block, search,
    search::each_block,
};
use crate::tensor::DType;

/// 256 weights in 16 sub-blocks of 16: an element of sub-block `j` is `d * scales[j] * (q - 32)`.
/// The block has two halves of 128, each four runs of 32: run `r` of a half takes its low four bits from
/// `ql[32 * (r % 2)..]` of the half's 64 bytes (low nibbles for `r < 2`, high ones after) and its high two bits from
/// bits `2r, 2r + 1` of the half's 32 bytes of `qh`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ6K {
    /// Low four bits.
    ql: [u8; 128],
    /// High two bits.
    qh: [u8; 64],
    /// Scale of each 16 weights.
    scales: [i8; 16],
    /// Scale of the scales, f16.
    d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q6_K,
    name: "q6_k",
    ggml_id: Some(14),
    block_len: 256,
    block_bytes: size_of::<BlockQ6K>(),
    dequant: |bytes, out| decode(bytes, out, dequant),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::BytesHalves,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ6K| f16_is_finite(block.d)),
    quantize: Some(quantize),
    table: &[],
    planes: &[(208, 2), (192, 16), (0, 128), (128, 64)],
    wgsl: wgsl!("quant/q6_k"),
};

fn dequant(block: &BlockQ6K, out: &mut [f32; 256]) {
    let d = f16_value(block.d);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, run, l) = (i / 128, i % 128 / 32, i % 32);
        let low = block.ql[64 * half + 32 * (run % 2) + l] >> (4 * (run / 2)) & 15;
        let high = block.qh[32 * half + l] >> (2 * run) & 3;
        let q = f32::from(low | high << 4) - 32.0;
        *out = d * f32::from(block.scales[i / 16]) * q;
    }
}

fn chunks(block: &BlockQ6K) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|part| {
        let (half, run) = (part / 4, part % 4);
        let ql = &block.ql[64 * half + 32 * (run % 2)..][..32];
        let qh = &block.qh[32 * half..][..32];
        let code = |i: usize| ql[i] >> (run / 2 * 4) & 15 | (qh[i] >> (2 * run) & 3) << 4;
        let codes = std::array::from_fn(|i| code(i) as i8 - 32);
        let scale = |index: usize| d * f32::from(block.scales[2 * part + index]);
        Chunk::halves([scale(0), scale(1)], codes)
    })
}

/// As ggml's `quantize_q6_K`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, importance, out, |x: &[f32; 256], importance| {
        let groups: &[[f32; 16]; 16] = bytemuck::cast_ref(x);
        let mut codes = [[0u8; 16]; 16];
        let mut group_scales = [0.0; 16];
        for (j, x) in groups.iter().enumerate() {
            let importance = importance.map(|importance| &importance[16 * j..][..16]);
            (group_scales[j], codes[j]) = search::symmetric(32, x, importance);
        }
        let (extreme, magnitude) = search::extreme(&group_scales);
        if magnitude < search::NOTHING {
            return bytemuck::Zeroable::zeroed();
        }
        let inverse = -128.0 / extreme;
        let (d, scale) = search::half(1.0 / inverse);
        let scales = group_scales.map(|scale| search::nearest(inverse * scale).min(127) as i8);
        for (j, (x, codes)) in groups.iter().zip(&mut codes).enumerate() {
            let scale = scale * f32::from(scales[j]);
            if scale != 0.0 {
                *codes = x.map(|x| (search::nearest(x / scale).clamp(-32, 31) + 32) as u8);
            }
        }
        let codes: [u8; 256] = bytemuck::cast(codes);
        let ql = std::array::from_fn(|i| {
            let at = i / 64 * 128 + i % 64;
            codes[at] & 15 | codes[at + 64] << 4
        });
        let qh = std::array::from_fn(|i| {
            let at = i / 32 * 128 + i % 32;
            (0..4).fold(0, |bits, run| bits | codes[at + 32 * run] >> 4 << (2 * run))
        });
        BlockQ6K { ql, qh, scales, d }
    });
}
