//! The six-bit scales and minima that Q4_K and Q5_K pack into twelve bytes. Knows only that packing.

/// Scale and minimum of sub-block `j` (0..8, 32 weights each).
///
/// Sub-blocks 0..4 have theirs in the low six bits of bytes `j` (scale) and `j + 4` (minimum). Sub-blocks 4..8 have
/// the low four bits in the nibbles of byte `j + 4` and the high two in the top bits of bytes `j - 4` and `j`.
pub(super) fn k_scale_min(scales: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    }
}
