// IQ2_XS: 256 elements in 74 bytes: d f16, qs u16[32] (nine bits of grid index, seven signs), scales[8], a nibble for
// each 16 elements; d * (0.5 + s) / 4 * grid.
#import lib/grids

const TABLE_BYTES: u32 = 1024u;

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 74u;
    let d = half_to_f32(load_u16(block)) * 0.25;
    let j = chunk & 7u;
    let both = load_u16(block + 66u + (j & 6u)) >> ((j & 1u) * 8u);
    return vec3<f32>(d * (0.5 + f32(both & 15u)), d * (0.5 + f32((both >> 4u) & 15u)), 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 74u;
    let both = load_u16(block + 2u + (chunk & 7u) * 8u + part * 2u);
    return iq2_eight(grid_entry(both & 511u), eighth_sign(both >> 9u));
}
