// A4: 32 elements in 20 bytes: d f16, z u8, a byte of 0, qs[16]; nibbles as in Q4_0; d * (q - z).
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let word = weights[(row_byte + chunk * 20u) >> 2u];
    let d = half_to_f32(word & 0xffffu);
    return vec3<f32>(d, d, -d * f32((word >> 16u) & 0xffu));
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = ((row_byte + chunk * 20u) >> 2u) + 1u + (part & 1u) * 2u;
    let shift = (part >> 1u) * 4u;
    let lo = (weights[word] >> shift) & 0x0f0f0f0fu;
    let hi = (weights[word + 1u] >> shift) & 0x0f0f0f0fu;
    return Codes(bytes4(lo), bytes4(hi));
}
