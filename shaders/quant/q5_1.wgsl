// Q5_1: 32 elements in 24 bytes: d, m f16, qh[4], qs[16]; bits as in Q5_0; d * q + m.
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let word = weights[(row_byte + chunk * 24u) >> 2u];
    let d = half_to_f32(word & 0xffffu);
    return vec3<f32>(d, d, half_to_f32(word >> 16u));
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let block = (row_byte + chunk * 24u) >> 2u;
    let word = block + 2u + (part & 1u) * 2u;
    let shift = (part >> 1u) * 4u;
    let high_bits = weights[block + 1u] >> (part * 8u);
    let lo = ((weights[word] >> shift) & 0x0f0f0f0fu) | fifth_bits(high_bits);
    let hi = ((weights[word + 1u] >> shift) & 0x0f0f0f0fu) | fifth_bits(high_bits >> 4u);
    return Codes(bytes4(lo), bytes4(hi));
}
