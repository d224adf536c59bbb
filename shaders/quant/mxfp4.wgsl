// MXFP4: 32 elements in 17 bytes: e u8, qs[16]; nibbles as in Q4_0, indices of FP4_VALUES; 2^(e - 128) * value.
// Planes of 16 blocks: e, qs.
#import lib/bytes
#import lib/lookup

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + chunk;
    let e = load_u8((block >> 4u) * 272u + (block & 15u));
    // The two smallest scales are subnormal, so small that they may count as zero.
    let d = bitcast<f32>((max(e, 1u) - 1u) << 23u);
    return vec3<f32>(d, d, 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_nibbles((block >> 4u) * 17u + 1u + (block & 15u), part);
    return Codes(lookup4(FP4_VALUES, eight.x), lookup4(FP4_VALUES, eight.y));
}
