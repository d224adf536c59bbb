// F16: half floats, two a word. unpack2x16float is core WGSL and needs no shader-f16.
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let four = weights[(row_block >> 3u) + chunk * 4u + part];
    return Codes(
        vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y)),
        vec4<f32>(unpack2x16float(four.z), unpack2x16float(four.w)),
    );
}
#else
fn element(row_block: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return unpack2x16float(load_u16((row_block + col) * 2u)).x;
}

#import lib/codes_by_element
#endif
