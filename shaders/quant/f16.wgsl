// F16: half floats, two a word. unpack2x16float is core WGSL and needs no shader-f16.
fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = (row_byte >> 2u) + chunk * 16u + part * 4u;
    return Codes(
        vec4<f32>(unpack2x16float(weights[word]), unpack2x16float(weights[word + 1u])),
        vec4<f32>(unpack2x16float(weights[word + 2u]), unpack2x16float(weights[word + 3u])),
    );
}
#else
fn element(row_byte: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return unpack2x16float(load_u16(row_byte + col * 2u)).x;
}

#import lib/codes_by_element
#endif
