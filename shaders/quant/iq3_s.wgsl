// IQ3_S: 256 elements in 110 bytes: d f16, qs[64], qh[8], signs[32], scales[4]; nine bits of grid index for each 4
// elements, a byte of signs for each 8, a four-bit scale for each 32; d * (1 + 2 s) * grid.
#import lib/grids

const TABLE_BYTES: u32 = 1024u;

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 110u;
    let s = (load_u32_at_2(block + 106u) >> ((chunk & 7u) * 4u)) & 15u;
    let scale = half_to_f32(load_u16(block)) * f32(1u + 2u * s);
    return vec3<f32>(scale, scale, 0.0);
}

// Magnitudes 1, 3, 5, ... 15.
fn four(index: u32, signs: u32) -> vec4<f32> {
    return signed4(three_bits4(grid_entry(index)) * 2u + 1u, signs);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = TABLE_BYTES + (row_block + (chunk >> 3u)) * 110u;
    let j = chunk & 7u;
    let pair = load_u16(block + 2u + j * 8u + part * 2u);
    let ninths = load_u16(block + 66u + (j & 6u)) >> ((j & 1u) * 8u + part * 2u);
    let signs = load_u32_at_2(block + 74u + j * 4u) >> (part * 8u);
    return Codes(
        four((pair & 0xffu) | ((ninths & 1u) << 8u), signs),
        four((pair >> 8u) | ((ninths & 2u) << 7u), signs >> 4u),
    );
}
