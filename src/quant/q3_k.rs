//! Q3_K: 256 weights of 3 bits in sixteen sub-blocks with six-bit scales. Knows only its own layout.

use super::{
    Chunk, Format, Packing, decode_chunks, each_chunk, f16_is_finite, f16_value, first_block, search,
    search::each_block,
};
use crate::tensor::DType;

/// 256 weights in 16 sub-blocks of 16: an element of sub-block `j` is `d * (scale[j] - 32) * (q - 4)`. The low two bits
/// of `q` lie as in Q2_K; the third of element `l` of run `r` (0..8, 32 weights each) is bit `r` of `hmask[l]`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockQ3K {
    /// Third bits.
    hmask: [u8; 32],
    /// Low two bits.
    qs: [u8; 64],
    /// Six-bit scales: the low four bits of 0..8 in the low nibbles of bytes 0..8, those of 8..16 in the high ones; the
    /// high two of scale `j` in bits `2 (j / 4)` of byte `8 + j % 4`.
    scales: [u8; 12],
    /// Scale of the scales, f16.
    d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ3K>() == 110);

pub(super) const FORMAT: Format = Format {
    dtype: DType::Q3_K,
    name: "q3_k",
    ggml_id: Some(11),
    block_len: 256,
    block_bytes: size_of::<BlockQ3K>(),
    dequant: |bytes, out| decode_chunks(bytes, out, chunks),
    chunks: |bytes, store| each_chunk(bytes, store, chunks),
    packing: Packing::SignedNibbleHalves,
    non_finite: |bytes| first_block(bytes, |block: &BlockQ3K| f16_is_finite(block.d)),
    quantize: Some(quantize),
    table: &[],
    planes: &[(108, 2), (96, 12), (0, 32), (32, 64)],
    wgsl: wgsl!("quant/q3_k"),
};

fn scale(scales: &[u8; 12], j: usize) -> f32 {
    let low = scales[j % 8] >> (j / 8 * 4) & 15;
    let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
    f32::from(low | high << 4) - 32.0
}

fn chunks(block: &BlockQ3K) -> [Chunk; 8] {
    let d = f16_value(block.d);
    std::array::from_fn(|part| {
        let group = &block.qs[part / 4 * 32..][..32];
        let code = |i: usize| group[i] >> (part % 4 * 2) & 3 | (block.hmask[i] >> part & 1) << 2;
        let codes = std::array::from_fn(|i| code(i) as i8 - 4);
        Chunk::halves([0, 1].map(|half| d * scale(&block.scales, 2 * part + half)), codes)
    })
}

/// As ggml's `quantize_q3_K`.
fn quantize(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    each_block(row, importance, out, |x: &[f32; 256], importance| {
        let groups: &[[f32; 16]; 16] = bytemuck::cast_ref(x);
        let mut codes = [[0u8; 16]; 16];
        let (mut group_scales, mut group_weights) = ([0.0; 16], [0.0f32; 16]);
        let sigma2 = 2.0 * search::square_sum(x) / 256.0;
        for (j, x) in groups.iter().enumerate() {
            (group_scales[j], codes[j]) = match importance {
                Some(importance) => {
                    let weights = search::weights(&importance[16 * j..], sigma2, x);
                    group_weights[j] = weights.iter().fold(0.0, |sum, weight| sum + weight);
                    search::symmetric(4, x, Some(&weights))
                }
                None => descend(x),
            };
        }
        let (scale, six_bits) = match importance {
            Some(_) => search::symmetric(32, &group_scales, Some(&group_weights)),
            None => largest_as_32(&group_scales),
        };
        let (d, value) = search::half(scale);
        for (j, (x, codes)) in groups.iter().zip(&mut codes).enumerate() {
            let scale = value * (f32::from(six_bits[j]) - 32.0);
            if scale != 0.0 {
                *codes = x.map(|x| (search::nearest(x / scale).clamp(-4, 3) + 4) as u8);
            }
        }
        let codes: [u8; 256] = bytemuck::cast(codes);
        let qs = std::array::from_fn(|i| {
            let at = i / 32 * 128 + i % 32;
            (0..4).fold(0, |bits, run| bits | (codes[at + 32 * run] & 3) << (2 * run))
        });
        let hmask =
            std::array::from_fn(|l| (0..8).fold(0, |bits, run| bits | (codes[32 * run + l] >> 2) << run));
        let mut scales = [0; 12];
        for (j, code) in six_bits.into_iter().enumerate() {
            scales[j % 8] |= (code & 15) << (j / 8 * 4);
            scales[8 + j % 4] |= (code >> 4) << (j / 4 * 2);
        }
        BlockQ3K { hmask, qs, scales, d }
    });
}

/// Six-bit codes (32 is zero) of numbers, the one of largest magnitude as 0, and their scale.
fn largest_as_32(x: &[f32; 16]) -> (f32, [u8; 16]) {
    let (extreme, _) = search::extreme(x);
    if extreme == 0.0 {
        // Codes of scales that are all zero; ggml leaves them so.
        return (0.0, [0; 16]);
    }
    let inverse = -32.0 / extreme;
    (1.0 / inverse, x.map(|x| (search::nearest(inverse * x).clamp(-32, 31) + 32) as u8))
}

/// Codes -4..4 (plus 4) of sixteen weights and their scale (ggml's `make_q3_quants`): the plain rounding, single codes
/// moved while that makes the fit better.
fn descend(x: &[f32; 16]) -> (f32, [u8; 16]) {
    let (extreme, magnitude) = search::extreme(x);
    if magnitude < search::NOTHING {
        return (0.0, [0; 16]);
    }
    let inverse = -4.0 / extreme;
    let mut codes = x.map(|x| search::nearest(inverse * x).clamp(-4, 3));
    let (mut product, mut square) = (0.0f32, 0.0f32);
    for (x, code) in x.iter().zip(codes) {
        let (w, l) = (x * x, code as f32);
        product += w * x * l;
        square += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (x, code) in x.iter().zip(&mut codes) {
            let (w, l) = (x * x, *code as f32);
            let mut rest_product = product - w * x * l;
            if rest_product <= 0.0 {
                continue;
            }
            let mut rest_square = square - w * l * l;
            let new = search::nearest(x * rest_square / rest_product).clamp(-4, 3);
            if new == *code {
                continue;
            }
            rest_product += w * x * new as f32;
            rest_square += w * new as f32 * new as f32;
            if rest_square > 0.0 && rest_product * rest_product * square > product * product * rest_square {
                (*code, product, square, changed) = (new, rest_product, rest_square, true);
            }
        }
        if !changed {
            break;
        }
    }
    (if square > 0.0 { product / square } else { 0.0 }, codes.map(|code| (code + 4) as u8))
}
