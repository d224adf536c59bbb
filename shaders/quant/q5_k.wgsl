// Q5_K: 256 elements in 176 bytes: d, dmin f16, scales[12], qh[32], qs[128]. As Q4_K, with bit j of qh[l] the fifth
// bit of element l of sub-block j.
#import lib/k_scales

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return k_scale((row_byte + (chunk >> 3u) * 176u) >> 2u, chunk & 7u);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let j = chunk & 7u;
    let block = (row_byte + (chunk >> 3u) * 176u) >> 2u;
    let high = block + 4u + part * 2u;
    let word = block + 12u + (j >> 1u) * 8u + part * 2u;
    let shift = (j & 1u) * 4u;
    let lo = ((weights[word] >> shift) & 0x0f0f0f0fu) | (((weights[high] >> j) & 0x01010101u) << 4u);
    let hi = ((weights[word + 1u] >> shift) & 0x0f0f0f0fu) | (((weights[high + 1u] >> j) & 0x01010101u) << 4u);
    return Codes(bytes4(lo), bytes4(hi));
}
