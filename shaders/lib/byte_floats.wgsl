// What formats of one byte an element share, from their `four_values(word)`.
#import lib/bytes

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let eight = load_eight((row_block >> 4u) + chunk * 2u, part);
    return Codes(four_values(eight.x), four_values(eight.y));
}
#else
fn element(row_block: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return four_values(load_u8(row_block + col)).x;
}

#import lib/codes_by_element
#endif
