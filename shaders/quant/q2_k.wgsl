// Q2_K: 256 elements in 84 bytes: scales[16], qs[64], d, dmin f16. Two halves of 128, each four chunks of 32 in bits
// 2q of 32 bytes of qs; d * (sc & 15) * q - dmin * (sc >> 4) for each 16. The offset differs within a chunk, so codes
// are the finished weights. Planes of 4 blocks: d and dmin, scales, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + (chunk >> 3u);
    let slot = block & 3u;
    let first = (block >> 2u) * 21u;
    let j = chunk & 7u;
    let sub = j * 2u + (part >> 1u);
    let both = weights[first + 1u + slot][sub >> 2u] >> ((sub & 3u) * 8u);
    let super_scales = weights[first][slot];
    let scale = half_to_f32(super_scales & 0xffffu) * f32(both & 15u);
    let minimum = half_to_f32(super_scales >> 16u) * f32((both >> 4u) & 15u);
    let eight = load_eight(first + 5u + slot * 4u + (j >> 2u) * 2u, part);
    let codes = (eight >> vec2<u32>((j & 3u) * 2u)) & vec2<u32>(0x03030303u);
    return Codes(bytes4(codes.x) * scale - minimum, bytes4(codes.y) * scale - minimum);
}
