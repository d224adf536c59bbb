// Q2_K: 256 elements in 84 bytes: scales[16], qs[64], d, dmin f16. Two halves of 128, each four chunks of 32 in bits
// 2q of 32 bytes of qs; d * (sc & 15) * q - dmin * (sc >> 4) for each 16. The offset differs within a chunk, so codes
// are the finished weights.
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let block = (row_byte + (chunk >> 3u) * 84u) >> 2u;
    let j = chunk & 7u;
    let sub = j * 2u + (part >> 1u);
    let both = weights[block + (sub >> 2u)] >> ((sub & 3u) * 8u);
    let super_scales = weights[block + 20u];
    let scale = half_to_f32(super_scales & 0xffffu) * f32(both & 15u);
    let minimum = half_to_f32(super_scales >> 16u) * f32((both >> 4u) & 15u);
    let word = block + 4u + (j >> 2u) * 8u + part * 2u;
    let shift = (j & 3u) * 2u;
    let lo = (weights[word] >> shift) & 0x03030303u;
    let hi = (weights[word + 1u] >> shift) & 0x03030303u;
    return Codes(bytes4(lo) * scale - minimum, bytes4(hi) * scale - minimum);
}
