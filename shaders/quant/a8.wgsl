// A8: 32 elements in 36 bytes: d f16, z u8, one more if the byte c is odd, qs u8[32]; d * (q - z - c % 2).
// Planes of 4 blocks: d, z and c, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + chunk;
    let all = weights[(block >> 2u) * 9u][block & 3u];
    let d = half_to_f32(all & 0xffffu);
    return vec3<f32>(d, d, -d * f32(((all >> 16u) & 0xffu) + ((all >> 24u) & 1u)));
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_eight((block >> 2u) * 9u + 1u + (block & 3u) * 2u, part);
    return Codes(bytes4(eight.x), bytes4(eight.y));
}
