// The weight matrix, and how to read it: planes by vectors of 16 bytes, what stands as in the file at any 2-byte boundary.
// A format's fragment (shaders/quant) is written against these and against `params.n_cols`.
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

// Eight consecutive elements before scaling.
struct Codes {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

fn load_word(word: u32) -> u32 {
    return weights[word >> 2u][word & 3u];
}

// The words of eight bytes of a plane, the `part`-th eight from vector `at` on.
fn load_eight(at: u32, part: u32) -> vec2<u32> {
    let four = weights[at + (part >> 1u)];
    return select(four.xy, four.zw, (part & 1u) != 0u);
}

// Eight codes of four bits, from a vector whose low nibbles are elements 0..15 of a block and whose high ones the others.
fn load_nibbles(at: u32, part: u32) -> vec2<u32> {
    return (load_eight(at, part & 1u) >> vec2<u32>((part >> 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu);
}

// 32 bits from an even byte offset. Both words are always read: lanes of one group stand at blocks of either parity,
// so a branch would run both ways; the buffer is padded by a word.
fn load_u32_at_2(byte: u32) -> u32 {
    let word = byte >> 2u;
    let low = load_word(word);
    let high = load_word(word + 1u);
    return select(low, (low >> 16u) | (high << 16u), (byte & 2u) != 0u);
}

// 16 bits from an even byte offset.
fn load_u16(byte: u32) -> u32 {
    return (load_word(byte >> 2u) >> ((byte & 2u) * 8u)) & 0xffffu;
}

// A scale stored as f16. Not unpack2x16float, which may flush subnormals: the super-scales of Q6_K usually are.
fn half_to_f32(bits: u32) -> f32 {
    let exponent = (bits >> 10u) & 31u;
    let fraction = bits & 0x3ffu;
    let subnormal = f32(fraction) * 5.9604644775390625e-8;
    let normal = bitcast<f32>(((exponent + 112u) << 23u) | (fraction << 13u));
    let magnitude = select(normal, subnormal, exponent == 0u);
    return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

// (scale, scale, 0) of a block whose scale is the first field, an f16, of groups of 8 blocks in `group_bytes`.
fn scale_of_eight(block: u32, group_bytes: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16((block >> 3u) * group_bytes + (block & 7u) * 2u));
    return vec3<f32>(d, d, 0.0);
}

// (scale, scale, offset) of a block whose first field is both, f16s, of groups of 4 blocks in `group_vectors`.
fn scales_of_four(block: u32, group_vectors: u32) -> vec3<f32> {
    let both = weights[(block >> 2u) * group_vectors][block & 3u];
    let d = half_to_f32(both & 0xffffu);
    return vec3<f32>(d, d, half_to_f32(both >> 16u));
}

// The four bytes of a word, unsigned, lowest first.
fn bytes4(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu));
}

// The four bytes of a word, signed, lowest first.
fn signed_bytes4(word: u32) -> vec4<f32> {
    let shifted = vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u);
    return vec4<f32>(bitcast<vec4<i32>>(shifted) >> vec4<u32>(24u));
}

// Four bits as four bytes: bit i of `bits` becomes bit 4 of byte i (the fifth bit of the Q5 formats).
fn fifth_bits(bits: u32) -> u32 {
    return ((bits & 1u) << 4u) | ((bits & 2u) << 11u) | ((bits & 4u) << 18u) | ((bits & 8u) << 25u);
}
