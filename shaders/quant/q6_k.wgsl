// Q6_K: 256 elements in 210 bytes: ql[128], qh[64], scales i8[16], d f16. Two halves of 128, each four chunks of 32:
// chunks 0 and 1 are the low nibbles of 64 bytes of ql, 2 and 3 the high ones; chunk q takes bits 2q of 32 bytes of
// qh; one scale per 16; d * sc * (q - 32). Planes of 8 blocks: d, scales, ql, qh.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + (chunk >> 3u);
    let first = (block >> 3u) * 1680u;
    // Sixteen scales in the order of the elements: two a chunk.
    let pair = load_u16(first + 16u + (block & 7u) * 16u + (chunk & 7u) * 2u);
    let scales = bitcast<vec2<i32>>(vec2<u32>(pair << 24u, pair << 16u)) >> vec2<u32>(24u);
    let d = half_to_f32(load_u16(first + (block & 7u) * 2u));
    return vec3<f32>(d * f32(scales.x), d * f32(scales.y), 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + (chunk >> 3u);
    let first = (block >> 3u) * 105u;
    let slot = block & 7u;
    let side = (chunk & 7u) >> 2u;
    let quarter = chunk & 3u;
    let low = load_eight(first + 9u + slot * 8u + side * 4u + (quarter & 1u) * 2u, part);
    let high = load_eight(first + 73u + slot * 4u + side * 2u, part);
    let codes = ((low >> vec2<u32>((quarter >> 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu))
        | (((high >> vec2<u32>(quarter * 2u)) & vec2<u32>(0x03030303u)) << vec2<u32>(4u));
    return Codes(bytes4(codes.x) - 32.0, bytes4(codes.y) - 32.0);
}
