// IQ1_S: 256 elements in 50 bytes: d f16, qs[32], qh u16[8]; eleven bits of grid index for each 8 elements (the high three
// in qh), a three-bit scale and the sign of the shift for each 32; d * (2 s + 1) * (grid +- 0.125).
#import lib/grids

const TABLE_BYTES: u32 = 4096u;

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 50u;
    let s = (load_u16(block + 34u + (chunk & 7u) * 2u) >> 12u) & 7u;
    let scale = half_to_f32(load_u16(block)) * f32(2u * s + 1u);
    return vec3<f32>(scale, scale, 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 50u;
    let j = chunk & 7u;
    let qh = load_u16(block + 34u + j * 2u);
    let low = (load_u32_at_2(block + 2u + j * 4u) >> (part * 8u)) & 0xffu;
    let high = (qh >> (part * 3u)) & 7u;
    return iq1_eight(grid_entry(low | (high << 8u)), select(0.125, -0.125, (qh & 0x8000u) != 0u));
}
