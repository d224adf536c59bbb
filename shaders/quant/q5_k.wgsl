// Q5_K: 256 elements in 176 bytes: d, dmin f16, scales[12], qh[32], qs[128]. As Q4_K, with bit j of qh[l] the fifth
// bit of element l of sub-block j.
#import lib/k_scales

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return k_scale(weights[(row_block + (chunk >> 3u)) * 11u], chunk & 7u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let j = chunk & 7u;
    let block = (row_block + (chunk >> 3u)) * 11u;
    let high = load_eight(block + 1u, part);
    let low = load_eight(block + 3u + (j >> 1u) * 2u, part);
    let codes = ((low >> vec2<u32>((j & 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu))
        | (((high >> vec2<u32>(j)) & vec2<u32>(0x01010101u)) << vec2<u32>(4u));
    return Codes(bytes4(codes.x), bytes4(codes.y));
}
