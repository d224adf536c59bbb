// F32: plain elements.
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn load4(word: u32) -> vec4<f32> {
    return vec4<f32>(
        bitcast<f32>(weights[word]),
        bitcast<f32>(weights[word + 1u]),
        bitcast<f32>(weights[word + 2u]),
        bitcast<f32>(weights[word + 3u]),
    );
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = (row_byte >> 2u) + chunk * 32u + part * 8u;
    return Codes(load4(word), load4(word + 4u));
}
#else
// The last chunk ends within the row: what follows is the next row, and must not count.
fn element(row_byte: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return bitcast<f32>(weights[(row_byte >> 2u) + col]);
}

#import lib/codes_by_element
#endif
