// Q4_0: 32 elements in 18 bytes: d f16, qs[16]; low nibbles are elements 0..15, high ones 16..31; d * (q - 8).
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16(row_byte + chunk * 18u));
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let byte = row_byte + chunk * 18u + 2u + (part & 1u) * 8u;
    let shift = (part >> 1u) * 4u;
    let lo = (load_u32_at_2(byte) >> shift) & 0x0f0f0f0fu;
    let hi = (load_u32_at_2(byte + 4u) >> shift) & 0x0f0f0f0fu;
    return Codes(bytes4(lo) - 8.0, bytes4(hi) - 8.0);
}
