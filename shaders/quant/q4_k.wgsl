// Q4_K: 256 elements in 144 bytes: d, dmin f16, scales[12], qs[128]. Eight sub-blocks of 32, in pairs that share 32
// bytes of qs: low nibbles the even one, high nibbles the odd one; d * sc * q - dmin * m.
#import lib/k_scales

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return k_scale((row_byte + (chunk >> 3u) * 144u) >> 2u, chunk & 7u);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let j = chunk & 7u;
    let word = ((row_byte + (chunk >> 3u) * 144u) >> 2u) + 4u + (j >> 1u) * 8u + part * 2u;
    let shift = (j & 1u) * 4u;
    let lo = (weights[word] >> shift) & 0x0f0f0f0fu;
    let hi = (weights[word + 1u] >> shift) & 0x0f0f0f0fu;
    return Codes(bytes4(lo), bytes4(hi));
}
