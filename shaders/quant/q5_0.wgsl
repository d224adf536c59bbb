// Q5_0: 32 elements in 22 bytes: d f16, qh[4], qs[16]; nibbles as in Q4_0, bit i of qh is the fifth bit of element i;
// d * (q - 16).
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16(row_byte + chunk * 22u));
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let block = row_byte + chunk * 22u;
    let byte = block + 6u + (part & 1u) * 8u;
    let shift = (part >> 1u) * 4u;
    let high_bits = load_u32_at_2(block + 2u) >> (part * 8u);
    let lo = ((load_u32_at_2(byte) >> shift) & 0x0f0f0f0fu) | fifth_bits(high_bits);
    let hi = ((load_u32_at_2(byte + 4u) >> shift) & 0x0f0f0f0fu) | fifth_bits(high_bits >> 4u);
    return Codes(bytes4(lo) - 16.0, bytes4(hi) - 16.0);
}
