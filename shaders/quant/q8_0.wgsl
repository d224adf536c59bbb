// Q8_0: 32 elements in 34 bytes: d f16, qs i8[32]; d * q.
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16(row_byte + chunk * 34u));
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let byte = row_byte + chunk * 34u + 2u + part * 8u;
    return Codes(signed_bytes4(load_u32_at_2(byte)), signed_bytes4(load_u32_at_2(byte + 4u)));
}
