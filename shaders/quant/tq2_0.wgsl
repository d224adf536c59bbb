// TQ2_0: 256 elements in 66 bytes: qs[64], d f16; bits as in Q2_K; d * (q - 1).
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16((row_block + (chunk >> 3u)) * 66u + 64u));
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let j = chunk & 7u;
    let byte = (row_block + (chunk >> 3u)) * 66u + (j >> 2u) * 32u + part * 8u;
    let shift = (j & 3u) * 2u;
    let lo = (load_u32_at_2(byte) >> shift) & 0x03030303u;
    let hi = (load_u32_at_2(byte + 4u) >> shift) & 0x03030303u;
    return Codes(bytes4(lo) - 1.0, bytes4(hi) - 1.0);
}
