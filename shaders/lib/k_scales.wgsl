// The 6-bit scale and minimum pairs of Q4_K and Q5_K, whose blocks both begin d, dmin f16, scales[12].

// Byte `i` of the 12 packed ones.
fn k_scale_byte(block_word: u32, i: u32) -> u32 {
    return (weights[block_word + 1u + (i >> 2u)] >> ((i & 3u) * 8u)) & 0xffu;
}

// (scale, scale, offset) of the 32 elements of sub-block `j` of 8.
fn k_scale(block_word: u32, j: u32) -> vec3<f32> {
    var scale: u32;
    var minimum: u32;
    if j < 4u {
        scale = k_scale_byte(block_word, j) & 63u;
        minimum = k_scale_byte(block_word, j + 4u) & 63u;
    } else {
        let both = k_scale_byte(block_word, j + 4u);
        scale = (both & 15u) | ((k_scale_byte(block_word, j - 4u) >> 6u) << 4u);
        minimum = (both >> 4u) | ((k_scale_byte(block_word, j) >> 6u) << 4u);
    }
    let super_scales = weights[block_word];
    let d = half_to_f32(super_scales & 0xffffu) * f32(scale);
    return vec3<f32>(d, d, -half_to_f32(super_scales >> 16u) * f32(minimum));
}
