// A8: 32 elements in 36 bytes: d f16, z u8, one more if the byte c is odd, qs u8[32]; d * (q - z - c % 2).
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let word = weights[(row_byte + chunk * 36u) >> 2u];
    let d = half_to_f32(word & 0xffffu);
    return vec3<f32>(d, d, -d * f32(((word >> 16u) & 0xffu) + ((word >> 24u) & 1u)));
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = ((row_byte + chunk * 36u) >> 2u) + 1u + part * 2u;
    return Codes(bytes4(weights[word]), bytes4(weights[word + 1u]));
}
