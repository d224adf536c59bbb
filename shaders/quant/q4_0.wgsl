// Q4_0: 32 elements in 18 bytes: d f16, qs[16]; low nibbles are elements 0..15, high ones 16..31; d * (q - 8).
// Planes of 8 blocks: d, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return scale_of_eight(row_block + chunk, 144u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_nibbles((block >> 3u) * 9u + 1u + (block & 7u), part);
    return Codes(bytes4(eight.x) - 8.0, bytes4(eight.y) - 8.0);
}
