// MXFP4: 32 elements in 17 bytes: e u8, qs[16]; nibbles as in Q4_0, indices of FP4_VALUES; 2^(e - 128) * value.
#import lib/bytes
#import lib/lookup

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    let e = load_u8(row_byte + chunk * 17u);
    // The two smallest scales are subnormal, so small that they may count as zero.
    let d = bitcast<f32>((max(e, 1u) - 1u) << 23u);
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let byte = row_byte + chunk * 17u + 1u + (part & 1u) * 8u;
    let shift = (part >> 1u) * 4u;
    let lo = lookup4(FP4_VALUES, load_u32_at_1(byte) >> shift);
    let hi = lookup4(FP4_VALUES, load_u32_at_1(byte + 4u) >> shift);
    return Codes(lo, hi);
}
