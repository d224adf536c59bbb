// Q6_K: 256 elements in 210 bytes: ql[128], qh[64], scales i8[16], d f16. Two halves of 128, each four chunks of 32:
// chunks 0 and 1 are the low nibbles of 64 bytes of ql, 2 and 3 the high ones; chunk q takes bits 2q of 32 bytes of
// qh; one scale per 16; d * sc * (q - 32).
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let block = row_byte + (chunk >> 3u) * 210u;
    // Sixteen scales in the order of the elements: two a chunk, at an even byte.
    let pair = load_u16(block + 192u + (chunk & 7u) * 2u);
    let scales = bitcast<vec2<i32>>(vec2<u32>(pair << 24u, pair << 16u)) >> vec2<u32>(24u);
    let d = half_to_f32(load_u16(block + 208u));
    return vec3<f32>(d * f32(scales.x), d * f32(scales.y), 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let block = row_byte + (chunk >> 3u) * 210u;
    let side = (chunk & 7u) >> 2u;
    let quarter = chunk & 3u;
    let low = block + side * 64u + (quarter & 1u) * 32u + part * 8u;
    let high = block + 128u + side * 32u + part * 8u;
    let shift = (quarter >> 1u) * 4u;
    let high_shift = quarter * 2u;
    let lo = ((load_u32_at_2(low) >> shift) & 0x0f0f0f0fu)
        | (((load_u32_at_2(high) >> high_shift) & 0x03030303u) << 4u);
    let hi = ((load_u32_at_2(low + 4u) >> shift) & 0x0f0f0f0fu)
        | (((load_u32_at_2(high + 4u) >> high_shift) & 0x03030303u) << 4u);
    return Codes(bytes4(lo) - 32.0, bytes4(hi) - 32.0);
}
