// Q2_0: 64 elements in 18 bytes: d f16, qs[16], two bits each; d * (q - 1).
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16((row_block + (chunk >> 1u)) * 18u));
    return vec3<f32>(d, d, 0.0);
}

fn bit_pairs4(bits: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(bits) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u)) - 1.0;
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let bits = load_u16((row_block + (chunk >> 1u)) * 18u + 2u + (chunk & 1u) * 8u + part * 2u);
    return Codes(bit_pairs4(bits), bit_pairs4(bits >> 8u));
}
