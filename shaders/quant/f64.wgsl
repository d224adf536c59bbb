// F64: double precision, rounded to single by its bits.
fn element_at(word: u32) -> f32 {
    let low = load_word(word);
    let high = load_word(word + 1u);
    let exponent = i32((high >> 20u) & 0x7ffu) - 896;
    // Smaller ones would be subnormal, which a GPU may take for zero anyway.
    if exponent <= 0 {
        return 0.0;
    }
    let fraction = ((high & 0xfffffu) << 3u) | (low >> 29u);
    let rest = low & 0x1fffffffu;
    let up = u32(rest > 0x10000000u || (rest == 0x10000000u && (fraction & 1u) == 1u));
    let magnitude = (u32(min(exponent, 254)) << 23u) + fraction + up;
    return bitcast<f32>(magnitude | (high & 0x80000000u));
}

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    return vec3<f32>(1.0, 1.0, 0.0);
}

fn element(row_block: u32, col: u32) -> f32 {
#if WHOLE_CHUNKS
#else
    if col >= params.n_cols {
        return 0.0;
    }
#endif
    return element_at((row_block + col) * 2u);
}

#import lib/codes_by_element
