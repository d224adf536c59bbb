// IQ4_NL: 32 elements in 18 bytes: d f16, qs[16]; nibbles as in Q4_0, indices of IQ4_VALUES; d * value.
// Planes of 8 blocks: d, qs.
#import lib/lookup

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return scale_of_eight(row_block + chunk, 144u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_nibbles((block >> 3u) * 9u + 1u + (block & 7u), part);
    return Codes(lookup4(IQ4_VALUES, eight.x), lookup4(IQ4_VALUES, eight.y));
}
