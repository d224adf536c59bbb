// IQ2_S: 256 elements in 82 bytes: d f16, qs[32], signs[32], qh[8], scales[8]; ten bits of grid index and a byte of signs
// for each 8 elements, scales as in IQ2_XS.
#import lib/grids

const TABLE_BYTES: u32 = 2048u;

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 82u;
    let d = half_to_f32(load_u16(block)) * 0.25;
    let j = chunk & 7u;
    let both = load_u16(block + 74u + (j & 6u)) >> ((j & 1u) * 8u);
    return vec3<f32>(d * (0.5 + f32(both & 15u)), d * (0.5 + f32((both >> 4u) & 15u)), 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 82u;
    let j = chunk & 7u;
    let low = (load_u32_at_2(block + 2u + j * 4u) >> (part * 8u)) & 0xffu;
    let high = (load_u16(block + 66u + (j & 6u)) >> ((j & 1u) * 8u + part * 2u)) & 3u;
    let signs = load_u32_at_2(block + 34u + j * 4u) >> (part * 8u);
    return iq2_eight(grid_entry(low | (high << 8u)), signs);
}
