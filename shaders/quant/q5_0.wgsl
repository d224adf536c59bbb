// Q5_0: 32 elements in 22 bytes: d f16, qh[4], qs[16]; nibbles as in Q4_0, bit i of qh is the fifth bit of element i;
// d * (q - 16). Planes of 8 blocks: d, qh, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return scale_of_eight(row_block + chunk, 176u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let first = (block >> 3u) * 11u;
    let high_bits = load_word((first + 1u) * 4u + (block & 7u)) >> (part * 8u);
    let eight = load_nibbles(first + 3u + (block & 7u), part);
    return Codes(
        bytes4(eight.x | fifth_bits(high_bits)) - 16.0,
        bytes4(eight.y | fifth_bits(high_bits >> 4u)) - 16.0,
    );
}
