// F8_E5M2: the upper bytes of half floats, four a word.
#import lib/bytes

fn four_values(word: u32) -> vec4<f32> {
    return vec4<f32>(
        half_to_f32((word & 0xffu) << 8u),
        half_to_f32(word & 0xff00u),
        half_to_f32((word >> 8u) & 0xff00u),
        half_to_f32((word >> 16u) & 0xff00u),
    );
}

fn q_scale(row_byte: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

#if WHOLE_CHUNKS
fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let word = (row_byte >> 2u) + chunk * 8u + part * 2u;
    return Codes(four_values(weights[word]), four_values(weights[word + 1u]));
}
#else
fn element(row_byte: u32, col: u32) -> f32 {
    if col >= params.n_cols {
        return 0.0;
    }
    return four_values(load_u8(row_byte + col)).x;
}

#import lib/codes_by_element
#endif
