// Q5_1: 32 elements in 24 bytes: d, m f16, qh[4], qs[16]; bits as in Q5_0; d * q + m.
// Planes of 4 blocks: d and m, qh, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return scales_of_four(row_block + chunk, 6u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let first = (block >> 2u) * 6u;
    let high_bits = weights[first + 1u][block & 3u] >> (part * 8u);
    let eight = load_nibbles(first + 2u + (block & 3u), part);
    return Codes(bytes4(eight.x | fifth_bits(high_bits)), bytes4(eight.y | fifth_bits(high_bits >> 4u)));
}
