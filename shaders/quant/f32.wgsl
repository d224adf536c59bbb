// F32: plain elements.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let at = (row_block >> 2u) + chunk * 8u + part * 2u;
    return Codes(bitcast<vec4<f32>>(weights[at]), bitcast<vec4<f32>>(weights[at + 1u]));
}
#else
// The last chunk ends within the row: what follows is the next row, and must not count.
fn element(row_block: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return bitcast<f32>(load_word(row_block + col));
}

#import lib/codes_by_element
#endif
