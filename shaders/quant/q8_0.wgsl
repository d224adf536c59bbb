// Q8_0: 32 elements in 34 bytes: d f16, qs i8[32]; d * q. Planes of 8 blocks: d, qs.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return scale_of_eight(row_block + chunk, 272u);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + chunk;
    let eight = load_eight((block >> 3u) * 17u + 1u + (block & 7u) * 2u, part);
    return Codes(signed_bytes4(eight.x), signed_bytes4(eight.y));
}
