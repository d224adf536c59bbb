// IQ2_XXS: 256 elements in 66 bytes: d f16, then for each 32 elements four grid indices and a word with four times seven
// signs and a four-bit scale; d * (0.5 + s) / 4 * grid.
#import lib/grids

const TABLE_BYTES: u32 = 512u;

fn sub_block(row_block: u32, chunk: u32) -> u32 {
    return TABLE_BYTES + (row_block + (chunk >> 3u)) * 66u + 2u + (chunk & 7u) * 8u;
}

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16(TABLE_BYTES + (row_block + (chunk >> 3u)) * 66u));
    let s = load_u16(sub_block(row_block, chunk) + 6u) >> 12u;
    let scale = d * (0.5 + f32(s)) * 0.25;
    return vec3<f32>(scale, scale, 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let byte = sub_block(row_block, chunk);
    let index = (load_u32_at_2(byte) >> (part * 8u)) & 0xffu;
    let signs = load_u32_at_2(byte + 4u) >> (part * 7u);
    return iq2_eight(grid_entry(index), eighth_sign(signs));
}
