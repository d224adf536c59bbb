// A4: 32 elements in 20 bytes: d f16, z u8, a byte of 0, qs[16]; nibbles as in Q4_0; d * (q - z).
// Planes of 4 blocks: d and z, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + chunk;
    let both = weights[(block >> 2u) * 5u][block & 3u];
    let d = half_to_f32(both & 0xffffu);
    return vec3<f32>(d, d, -d * f32((both >> 16u) & 0xffu));
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_nibbles((block >> 2u) * 5u + 1u + (block & 3u), part);
    return Codes(bytes4(eight.x), bytes4(eight.y));
}
