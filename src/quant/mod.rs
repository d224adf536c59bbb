//! Weight formats: one file per format and one registry.
//!
//! Principal type: [`Format`], found by [`format()`], [`format_by_ggml_id`] or [`format_by_name`]. A format knows how its
//! blocks decode; it must not know tensors' names, models or backends.
//!
//! Most engines want no blocks but [`Chunk`]s, the same for all formats. Block structs are plain bytes (alignment 1, little-endian fields as arrays), so a tensor's bytes can be viewed as
//! blocks wherever they happen to lie.

mod a4;
mod a8;
mod chunk;
mod float;
mod grids;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod k_scales;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod tq1_0;
mod tq2_0;

pub use a4::BlockA4;
pub use a8::BlockA8;
pub use chunk::{CHUNK, Chunk, Packing, StoreChunk};

use chunk::{decode_chunks, each_chunk, nibbles, nibbles_and_bit};
use k_scales::k_scale_min;

use crate::tensor::DType;

/// See [`Format::quantize`].
pub type Quantize = fn(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

/// A weight format.
pub struct Format {
    /// Which one.
    pub dtype: DType,
    /// Name as users write it, such as `q4_1`.
    pub name: &'static str,
    /// ggml's type id; `None` for a format that GGUF files cannot have.
    pub ggml_id: Option<u32>,
    /// Elements of a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Decodes whole blocks: `bytes.len() / block_bytes * block_len == out.len()`. Scalar, bit-exact, the oracle.
    pub dequant: fn(bytes: &[u8], out: &mut [f32]),
    /// Calls `store(index, chunk)` for every [`Chunk`] of whole blocks, in order; floats have none.
    pub chunks: fn(bytes: &[u8], store: StoreChunk<'_>),
    /// What the chunks are like.
    pub packing: Packing,
    /// Index of the first block whose scales (or values, for floats) are not all finite; bytes beyond the last whole
    /// block are not looked at. See [`Format::first_non_finite`].
    non_finite: fn(bytes: &[u8]) -> Option<usize>,
    /// Encodes a row as ggml's own quantiser does, byte for byte; `None` for formats that are only read. The row is
    /// whole blocks, finite, and `out` has room for exactly them. `importance`, one number a column, says how much its
    /// rounding errors matter (the mean of the squared inputs).
    pub quantize: Option<Quantize>,
    /// What the fragment looks codes up in: these words stand before the weights of every GPU buffer of the format. An
    /// even number of them.
    pub table: &'static [u16],
    /// The fields of a block as the GPU wants them: where each begins, and its bytes. There blocks stand in groups, and
    /// of a group first one field of all blocks, then the next, so that each begins at a multiple of 16 bytes; none
    /// where blocks stay as they are.
    pub planes: &'static [(u16, u16)],
    /// WGSL fragment that decodes the format on the GPU (interface in shaders/README.md).
    pub wgsl: &'static str,
}

impl Format {
    /// Bytes of a row of `n_cols` elements; `None` when a row is not a whole number of blocks or too long.
    pub fn row_bytes(&self, n_cols: u64) -> Option<u64> {
        if !n_cols.is_multiple_of(self.block_len as u64) {
            return None;
        }
        (n_cols / self.block_len as u64).checked_mul(self.block_bytes as u64)
    }

    /// Blocks of a group that [`Format::planes`] puts together: as few as fill whole runs of 16 bytes with each field.
    pub fn group_blocks(&self) -> u64 {
        let whole =
            |blocks: &u64| self.planes.iter().all(|(_, n)| (u64::from(*n) * blocks).is_multiple_of(16));
        (0..5).map(|power| 1 << power).find(whole).unwrap_or(16)
    }

    /// Index of the first block of `bytes` that decodes to a NaN or an infinity because its scales hold one.
    ///
    /// Reads only the scales, so it costs a small part of copying the tensor. Subnormal scales are *not* refused:
    /// tiny weights have them legitimately and `dequant` decodes them exactly. Trailing bytes of a piece that ends
    /// within a block are left to the piece that holds the rest.
    pub fn first_non_finite(&self, bytes: &[u8]) -> Option<usize> {
        (self.non_finite)(bytes)
    }
}

/// All supported formats, in the order of their ggml ids; those without come last.
pub static FORMATS: &[Format] = &[
    float::F32,
    float::F16,
    q4_0::FORMAT,
    q4_1::FORMAT,
    q5_0::FORMAT,
    q5_1::FORMAT,
    q8_0::FORMAT,
    q2_k::FORMAT,
    q3_k::FORMAT,
    q4_k::FORMAT,
    q5_k::FORMAT,
    q6_k::FORMAT,
    iq2_xxs::FORMAT,
    iq2_xs::FORMAT,
    iq3_xxs::FORMAT,
    iq1_s::FORMAT,
    iq4_nl::FORMAT,
    iq3_s::FORMAT,
    iq2_s::FORMAT,
    iq4_xs::FORMAT,
    float::F64,
    iq1_m::FORMAT,
    float::BF16,
    tq1_0::FORMAT,
    tq2_0::FORMAT,
    mxfp4::FORMAT,
    nvfp4::FORMAT,
    q1_0::FORMAT,
    q2_0::FORMAT,
    float::F8_E4M3,
    float::F8_E5M2,
    a4::FORMAT,
    a8::FORMAT,
];

/// The format of `dtype`.
pub fn format(dtype: DType) -> &'static Format {
    FORMATS.iter().find(|format| format.dtype == dtype).expect("invariant: every DType has a row in FORMATS")
}

/// The format that ggml numbers `id`, if it is supported.
pub fn format_by_ggml_id(id: u32) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.ggml_id == Some(id))
}

/// The format of this name in either case, such as `q4_1` or `Q4_1`, if it is supported.
pub fn format_by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name.eq_ignore_ascii_case(name))
}

/// The value of a half float stored little-endian.
pub fn f16_value(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// Whether a stored half float is neither NaN nor infinite.
fn f16_is_finite(bytes: [u8; 2]) -> bool {
    const EXPONENT: u16 = 0x7c00;
    u16::from_le_bytes(bytes) & EXPONENT != EXPONENT
}

/// Decodes `bytes`, seen as blocks of type `B`, block by block into chunks of `N` floats.
/// # Panics
/// When the lengths do not match as [`Format::dequant`] asks.
fn decode<B: bytemuck::Pod, const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn(&B, &mut [f32; N])) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    let (chunks, rest) = out.as_chunks_mut::<N>();
    assert!(
        chunks.len() == blocks.len() && rest.is_empty(),
        "invariant: the output has room for exactly the blocks given"
    );
    for (block, chunk) in blocks.iter().zip(chunks) {
        one(block, chunk);
    }
}

/// The first whole block of type `B` for which `finite` is false.
fn first_block<B: bytemuck::Pod>(bytes: &[u8], finite: impl Fn(&B) -> bool) -> Option<usize> {
    let whole = bytes.len() - bytes.len() % size_of::<B>();
    let blocks: &[B] = bytemuck::cast_slice(&bytes[..whole]);
    blocks.iter().position(|block| !finite(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_is_ordered_and_complete() {
        assert!(FORMATS.is_sorted_by_key(|format| format.ggml_id.unwrap_or(u32::MAX)));
        for found in FORMATS {
            assert_eq!(format(found.dtype).ggml_id, found.ggml_id);
            if let Some(id) = found.ggml_id {
                assert_eq!(format_by_ggml_id(id).unwrap().dtype, found.dtype);
            }
            let name = format!("{:?}", found.dtype);
            assert_eq!(format_by_name(&name).unwrap().dtype, found.dtype);
            assert_eq!(found.name, name.to_lowercase());
        }
        assert!(format_by_ggml_id(4).is_none());
        assert!(format_by_name("q9_k").is_none());
    }

    #[test]
    fn gguf_sizes_agree_with_the_registry() {
        use crate::formats::gguf::{TypeStatus, ggml_type};
        let supported = (0..64).filter_map(ggml_type).filter_map(|row| match row.status {
            TypeStatus::Supported { dtype, block_len, block_bytes } => {
                Some((row, dtype, block_len, block_bytes))
            }
            _ => None,
        });
        let mut n_seen = 0;
        for (row, dtype, block_len, block_bytes) in supported {
            let format = format_by_ggml_id(row.id).unwrap();
            assert_eq!(format.dtype, dtype);
            assert_eq!(format.name, row.name.to_lowercase());
            assert_eq!((format.block_len as u64, format.block_bytes as u64), (block_len, block_bytes));
            n_seen += 1;
        }
        assert_eq!(n_seen, FORMATS.iter().filter(|format| format.ggml_id.is_some()).count());
    }

    #[test]
    fn rows_must_be_whole_blocks() {
        let q4_k = format(DType::Q4_K);
        assert_eq!(q4_k.row_bytes(512), Some(288));
        assert_eq!(q4_k.row_bytes(511), None);
        assert_eq!(format(DType::F32).row_bytes(u64::MAX), None);
    }

    #[test]
    fn non_finite_scales_are_found_and_subnormal_ones_accepted() {
        for format in FORMATS {
            let mut bytes = vec![0; 3 * format.block_bytes];
            assert_eq!(format.first_non_finite(&bytes), None, "{}", format.name);
            // All ones is a NaN in every float type, wherever the scales stand.
            bytes[2 * format.block_bytes..].fill(0xff);
            assert_eq!(format.first_non_finite(&bytes), Some(2), "{}", format.name);
            let cut = &bytes[..3 * format.block_bytes - 1];
            assert_eq!(format.first_non_finite(cut), None, "{}", format.name);
        }
        let mut block = [0u8; 18];
        block[0] = 1;
        assert_eq!(format(DType::Q4_0).first_non_finite(&block), None);
        block[1] = 0x7c;
        assert_eq!(format(DType::Q4_0).first_non_finite(&block), Some(0));
    }
}
