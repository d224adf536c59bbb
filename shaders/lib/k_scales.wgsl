// The 6-bit scale and minimum pairs of Q4_K and Q5_K, whose blocks both begin d, dmin f16, scales[12].

// (scale, scale, offset) of the 32 elements of sub-block `j` of 8, from the block's first vector. The first four have six
// bits of a byte each; the others have four in the last bytes, and two above those of the first.
fn k_scale(head: vec4<u32>, j: u32) -> vec3<f32> {
    let bytes = head.yzw >> vec3<u32>((j & 3u) * 8u);
    let far = vec2<u32>(bytes.z & 15u, (bytes.z >> 4u) & 15u) | ((bytes.xy & vec2<u32>(0xc0u)) >> vec2<u32>(2u));
    let both = vec2<f32>(select(far, bytes.xy & vec2<u32>(63u), j < 4u));
    let d = half_to_f32(head.x & 0xffffu) * both.x;
    return vec3<f32>(d, d, -half_to_f32(head.x >> 16u) * both.y);
}
