// BF16: the upper halves of f32, two a word.
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn pair(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = (row_byte >> 2u) + chunk * 16u + part * 4u;
    return Codes(
        vec4<f32>(pair(weights[word]), pair(weights[word + 1u])),
        vec4<f32>(pair(weights[word + 2u]), pair(weights[word + 3u])),
    );
}
#else
fn element(row_byte: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return bitcast<f32>(load_u16(row_byte + col * 2u) << 16u);
}

#import lib/codes_by_element
#endif
