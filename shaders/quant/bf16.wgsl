// BF16: the upper halves of f32, two a word.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn pair(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let four = weights[(row_block >> 3u) + chunk * 4u + part];
    return Codes(vec4<f32>(pair(four.x), pair(four.y)), vec4<f32>(pair(four.z), pair(four.w)));
}
#else
fn element(row_block: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return bitcast<f32>(load_u16((row_block + col) * 2u) << 16u);
}

#import lib/codes_by_element
#endif
