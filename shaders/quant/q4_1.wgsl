// Q4_1: 32 elements in 20 bytes: d, m f16, qs[16]; nibbles as in Q4_0; d * q + m.
// Planes of 4 blocks: d and m, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return scales_of_four(row_block + chunk, 5u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_nibbles((block >> 2u) * 5u + 1u + (block & 3u), part);
    return Codes(bytes4(eight.x), bytes4(eight.y));
}
