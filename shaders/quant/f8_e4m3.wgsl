// F8_E4M3: eight bits, 4 of exponent (bias 7) and 3 of fraction, four a word. NaNs are not heeded: files with them are
// refused or show at once.
#import lib/bytes

// As a half float (bias 15), but for the factor 2^8 that the biases differ by.
fn four_values(word: u32) -> vec4<f32> {
    let bytes = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
    let bits = ((bytes & vec4<u32>(0x80u)) << vec4<u32>(8u)) | ((bytes & vec4<u32>(0x7fu)) << vec4<u32>(7u));
    return vec4<f32>(half_to_f32(bits.x), half_to_f32(bits.y), half_to_f32(bits.z), half_to_f32(bits.w)) * 256.0;
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
