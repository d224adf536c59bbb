// Q4_K: 256 elements in 144 bytes: d, dmin f16, scales[12], qs[128]. Eight sub-blocks of 32, in pairs that share 32
// bytes of qs: low nibbles the even one, high nibbles the odd one; d * sc * q - dmin * m.
#import lib/k_scales

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return k_scale(weights[(row_block + (chunk >> 3u)) * 9u], chunk & 7u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let j = chunk & 7u;
    let eight = load_eight((row_block + (chunk >> 3u)) * 9u + 1u + (j >> 1u) * 2u, part);
    let codes = (eight >> vec2<u32>((j & 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu);
    return Codes(bytes4(codes.x), bytes4(codes.y));
}
