// Q3_K: 256 elements in 110 bytes: hmask[32], qs[64], scales[12], d f16. Low two bits as in Q2_K, the third of element
// l of chunk j is bit j of hmask[l]; sixteen six-bit scales; d * (sc - 32) * (q - 4) for each 16. Planes of 8 blocks: d,
// scales, hmask, qs.
fn sub_scale(scales: u32, sub: u32) -> f32 {
    let low = (load_word(scales + ((sub >> 2u) & 1u)) >> ((sub & 3u) * 8u + (sub >> 3u) * 4u)) & 15u;
    let high = (load_word(scales + 2u) >> ((sub & 3u) * 8u + (sub >> 2u) * 2u)) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + (chunk >> 3u);
    let first = (block >> 3u) * 55u;
    let scales = (first + 1u) * 4u + (block & 7u) * 3u;
    let sub = (chunk & 7u) * 2u;
    let d = half_to_f32(load_u16(first * 16u + (block & 7u) * 2u));
    return vec3<f32>(d * sub_scale(scales, sub), d * sub_scale(scales, sub + 1u), 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + (chunk >> 3u);
    let first = (block >> 3u) * 55u;
    let slot = block & 7u;
    let j = chunk & 7u;
    let high = load_eight(first + 7u + slot * 2u, part);
    let low = load_eight(first + 23u + slot * 4u + (j >> 2u) * 2u, part);
    let codes = ((low >> vec2<u32>((j & 3u) * 2u)) & vec2<u32>(0x03030303u))
        | (((high >> vec2<u32>(j)) & vec2<u32>(0x01010101u)) << vec2<u32>(2u));
    return Codes(bytes4(codes.x) - 4.0, bytes4(codes.y) - 4.0);
}
