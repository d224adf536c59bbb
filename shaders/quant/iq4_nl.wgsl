// IQ4_NL: 32 elements in 18 bytes: d f16, qs[16]; nibbles as in Q4_0, indices of IQ4_VALUES; d * value.
#import lib/lookup

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16(row_byte + chunk * 18u));
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let byte = row_byte + chunk * 18u + 2u + (part & 1u) * 8u;
    let shift = (part >> 1u) * 4u;
    let lo = lookup4(IQ4_VALUES, load_u32_at_2(byte) >> shift);
    let hi = lookup4(IQ4_VALUES, load_u32_at_2(byte + 4u) >> shift);
    return Codes(lo, hi);
}
