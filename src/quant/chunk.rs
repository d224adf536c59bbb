//! What all block formats have in common: runs of 32 weights with integer codes and a scale for each 16.
//!
//! Principal type: [`Chunk`]. Knows no format.

/// Weights of a chunk.
pub const CHUNK: usize = 32;

/// 32 consecutive weights of a row: weight `i` is `scales[i / 16] * codes[i] + offsets[i / 16]`, and this very
/// expression gives the bits of [`super::Format::dequant`] (but for the sign of a zero).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunk {
    /// Of weights 0..16 and 16..32; equal but in the packings with halves.
    pub scales: [f32; 2],
    /// Added to the weights; [`Chunk::NO_OFFSET`] in the packings without.
    pub offsets: [f32; 2],
    /// Within the range that the format's [`Packing`] says.
    pub codes: [i8; CHUNK],
}

/// What the codes and scales of a format's chunks are like, so that engines can choose a layout: many formats, few
/// layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Single numbers: there are no chunks.
    Float,
    /// Codes 0..16, one scale and one offset.
    Nibbles,
    /// Codes -8..8, one scale, no offset.
    SignedNibbles,
    /// Codes 0..16, a scale and an offset for each half.
    NibbleHalves,
    /// Codes -8..8, a scale for each half, no offset.
    SignedNibbleHalves,
    /// Codes -128..128, one scale, no offset.
    Bytes,
    /// Codes -128..128, one scale and one offset.
    BytesOffset,
    /// Codes -128..128, a scale for each half, no offset.
    BytesHalves,
}

impl Chunk {
    /// Adding this changes no number, not even the sign of a zero.
    pub const NO_OFFSET: f32 = -0.0;

    /// One scale for all, no offset.
    pub fn new(scale: f32, codes: [i8; CHUNK]) -> Self {
        Self::halves([scale; 2], codes)
    }

    /// A scale for each half, no offset.
    pub fn halves(scales: [f32; 2], codes: [i8; CHUNK]) -> Self {
        Self { scales, offsets: [Self::NO_OFFSET; 2], codes }
    }

    /// The weights.
    pub fn decode(&self, out: &mut [f32; CHUNK]) {
        for (i, (out, code)) in out.iter_mut().zip(self.codes).enumerate() {
            *out = self.scales[i / 16] * f32::from(code) + self.offsets[i / 16];
        }
    }
}

/// Takes chunk number `index`.
pub type StoreChunk<'a> = &'a mut dyn FnMut(usize, &Chunk);

/// Calls `store(index, chunk)` for every chunk of `bytes`, seen as blocks of type `B` of `N` chunks each.
pub(super) fn each_chunk<B: bytemuck::Pod, const N: usize>(
    bytes: &[u8],
    store: StoreChunk<'_>,
    chunks: fn(&B) -> [Chunk; N],
) {
    for (index, block) in bytes.chunks_exact(size_of::<B>()).map(bytemuck::from_bytes::<B>).enumerate() {
        for (part, chunk) in chunks(block).iter().enumerate() {
            store(index * N + part, chunk);
        }
    }
}

/// Decodes `bytes`, seen as blocks of type `B`, by way of their chunks.
/// # Panics
/// When the lengths do not match as [`super::Format::dequant`] asks.
pub(super) fn decode_chunks<B: bytemuck::Pod, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    chunks: fn(&B) -> [Chunk; N],
) {
    let (out, rest) = out.as_chunks_mut::<CHUNK>();
    assert!(
        bytes.len().is_multiple_of(size_of::<B>())
            && out.len() == bytes.len() / size_of::<B>() * N
            && rest.is_empty(),
        "invariant: the output has room for exactly the blocks given"
    );
    each_chunk(bytes, &mut |index, chunk| chunk.decode(&mut out[index]), chunks);
}

/// The codes that most formats of 4 bits pack alike: the low nibbles of 16 bytes, then the high ones.
pub(super) fn nibbles(qs: &[u8]) -> [i8; CHUNK] {
    std::array::from_fn(|i| (qs[i % 16] >> (i / 16 * 4) & 15) as i8)
}

/// As [`nibbles`], with bit `i` of `qh` as the fifth bit of code `i`.
pub(super) fn nibbles_and_bit(qs: &[u8; 16], qh: [u8; 4]) -> [i8; CHUNK] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(qh));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as i8)
}
