// IQ3_XXS: 256 elements in 98 bytes: d f16, qs[64], scales_and_signs u32[8]; a grid index for each 4 elements, four times
// seven signs and a four-bit scale for each 32; d * (0.5 + s) / 2 * grid.
#import lib/grids

const TABLE_BYTES: u32 = 512u;

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 98u;
    let s = load_u16(block + 66u + (chunk & 7u) * 4u + 2u) >> 12u;
    let scale = half_to_f32(load_u16(block)) * (0.5 + f32(s)) * 0.5;
    return vec3<f32>(scale, scale, 0.0);
}

// Magnitudes 4, 12, 20, ... 52, and 62.
fn four(index: u32, signs: u32) -> vec4<f32> {
    let codes = three_bits4(grid_entry(index));
    let last = select(vec4<u32>(0u), vec4<u32>(2u), codes == vec4<u32>(7u));
    return signed4(codes * 8u + 4u + last, signs);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 98u;
    let j = chunk & 7u;
    let pair = load_u16(block + 2u + j * 8u + part * 2u);
    let signs = eighth_sign(load_u32_at_2(block + 66u + j * 4u) >> (part * 7u));
    return Codes(four(pair & 0xffu, signs), four(pair >> 8u, signs >> 4u));
}
