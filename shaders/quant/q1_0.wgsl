// Q1_0: 128 elements in 18 bytes: d f16, qs[16], a bit each; d where it is set, else -d.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16((row_block + (chunk >> 2u)) * 18u));
    return vec3<f32>(d, d, 0.0);
}

fn bits4(bits: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(bits) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u)) * 2.0 - 1.0;
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let bits = load_u32_at_2((row_block + (chunk >> 2u)) * 18u + 2u + (chunk & 3u) * 4u) >> (part * 8u);
    return Codes(bits4(bits), bits4(bits >> 4u));
}
