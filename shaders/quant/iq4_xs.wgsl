// IQ4_XS: 256 elements in 136 bytes: d f16, scales_h u16, scales_l[4], qs[128]; eight sub-blocks of 32 with six-bit
// scales; d * (sc - 32) * value, indices as in IQ4_NL.
#import lib/lookup

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let block = (row_byte + (chunk >> 3u) * 136u) >> 2u;
    let j = chunk & 7u;
    let head = weights[block];
    let low = (weights[block + 1u] >> (j * 4u)) & 15u;
    let high = (head >> (16u + j * 2u)) & 3u;
    let d = half_to_f32(head & 0xffffu) * (f32(low | (high << 4u)) - 32.0);
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = ((row_byte + (chunk >> 3u) * 136u) >> 2u) + 2u + (chunk & 7u) * 4u + (part & 1u) * 2u;
    let shift = (part >> 1u) * 4u;
    return Codes(lookup4(IQ4_VALUES, weights[word] >> shift), lookup4(IQ4_VALUES, weights[word + 1u] >> shift));
}
