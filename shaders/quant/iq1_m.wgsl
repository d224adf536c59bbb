// IQ1_M: 256 elements in 56 bytes: qs[32], qh[16], scales u16[4]; eleven bits of grid index for each 8 elements (the high
// three in a nibble of qh, whose fourth bit is the sign of the shift), three-bit scales for each 16, and d f16 in the top
// nibbles of the scales; d * (2 s + 1) * (grid +- 0.125).
#import lib/grids

const TABLE_BYTES: u32 = 4096u;

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = (TABLE_BYTES + (row_block + (chunk >> 3u)) * 56u) >> 2u;
    let j = chunk & 7u;
    let s01 = load_word(block + 12u);
    let s23 = load_word(block + 13u);
    let d_bits = ((s01 >> 12u) & 0xfu) | ((s01 >> 24u) & 0xf0u) | ((s23 >> 4u) & 0xf00u) | ((s23 >> 16u) & 0xf000u);
    let d = half_to_f32(d_bits);
    let pair = select(s01, s23, j >= 4u) >> ((j & 2u) * 8u + (j & 1u) * 6u);
    return vec3<f32>(d * f32(2u * (pair & 7u) + 1u), d * f32(2u * ((pair >> 3u) & 7u) + 1u), 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = (TABLE_BYTES + (row_block + (chunk >> 3u)) * 56u) >> 2u;
    let j = chunk & 7u;
    let low = (load_word(block + j) >> (part * 8u)) & 0xffu;
    let high = load_word(block + 8u + (j >> 1u)) >> ((j & 1u) * 16u + part * 4u);
    return iq1_eight(grid_entry(low | ((high & 7u) << 8u)), select(0.125, -0.125, (high & 8u) != 0u));
}
