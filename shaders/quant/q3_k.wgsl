// Q3_K: 256 elements in 110 bytes: hmask[32], qs[64], scales[12], d f16. Low two bits as in Q2_K, the third of element
// l of chunk j is bit j of hmask[l]; sixteen six-bit scales; d * (sc - 32) * (q - 4) for each 16.
fn sub_scale(block: u32, sub: u32) -> f32 {
    let low_byte = block + 96u + (sub & 7u);
    let high_byte = block + 104u + (sub & 3u);
    let low = (load_u16(low_byte & 0xfffffffeu) >> ((low_byte & 1u) * 8u + (sub >> 3u) * 4u)) & 15u;
    let high = (load_u16(high_byte & 0xfffffffeu) >> ((high_byte & 1u) * 8u + (sub >> 2u) * 2u)) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let block = row_byte + (chunk >> 3u) * 110u;
    let sub = (chunk & 7u) * 2u;
    let d = half_to_f32(load_u16(block + 108u));
    return vec3<f32>(d * sub_scale(block, sub), d * sub_scale(block, sub + 1u), 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let block = row_byte + (chunk >> 3u) * 110u;
    let j = chunk & 7u;
    let high = block + part * 8u;
    let low = block + 32u + (j >> 2u) * 32u + part * 8u;
    let shift = (j & 3u) * 2u;
    let lo = ((load_u32_at_2(low) >> shift) & 0x03030303u)
        | (((load_u32_at_2(high) >> j) & 0x01010101u) << 2u);
    let hi = ((load_u32_at_2(low + 4u) >> shift) & 0x03030303u)
        | (((load_u32_at_2(high + 4u) >> j) & 0x01010101u) << 2u);
    return Codes(bytes4(lo) - 4.0, bytes4(hi) - 4.0);
}
