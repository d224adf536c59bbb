// IQ4_XS: 256 elements in 136 bytes: d f16, scales_h u16, scales_l[4], qs[128]; eight sub-blocks of 32 with six-bit
// scales; d * (sc - 32) * value, indices as in IQ4_NL. Planes of 2 blocks: the scales, qs.
#import lib/lookup

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + (chunk >> 3u);
    let j = chunk & 7u;
    let head = load_eight((block >> 1u) * 17u, block & 1u);
    let low = (head.y >> (j * 4u)) & 15u;
    let high = (head.x >> (16u + j * 2u)) & 3u;
    let d = half_to_f32(head.x & 0xffffu) * (f32(low | (high << 4u)) - 32.0);
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + (chunk >> 3u);
    let eight = load_nibbles((block >> 1u) * 17u + 1u + (block & 1u) * 8u + (chunk & 7u), part);
    return Codes(lookup4(IQ4_VALUES, eight.x), lookup4(IQ4_VALUES, eight.y));
}
