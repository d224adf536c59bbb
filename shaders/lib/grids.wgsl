// The IQ formats' grids. A buffer of such a format begins with its grid, two entries a word; TABLE_BYTES of the fragment
// says how long it is.
#import lib/weights

// Entry `index` of the grid.
fn grid_entry(index: u32) -> u32 {
    return (load_word(index >> 1u) >> ((index & 1u) * 16u)) & 0xffffu;
}

// Four codes of two bits.
fn two_bits4(entry: u32) -> vec4<u32> {
    return (vec4<u32>(entry) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u);
}

// Four codes of three bits.
fn three_bits4(entry: u32) -> vec4<u32> {
    return (vec4<u32>(entry) >> vec4<u32>(0u, 3u, 6u, 9u)) & vec4<u32>(7u);
}

// `values`, negative where bits 0..3 of `signs` are set.
fn signed4(values: vec4<u32>, signs: u32) -> vec4<f32> {
    let negative = (vec4<u32>(signs) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u);
    let magnitudes = vec4<f32>(values);
    return select(magnitudes, -magnitudes, negative);
}

// Eight signs of which seven are stored: the number of negative ones is even.
fn eighth_sign(bits: u32) -> u32 {
    let seven = bits & 127u;
    return seven | ((countOneBits(seven) & 1u) << 7u);
}

// Eight weights of an IQ2 grid: magnitudes 8, 25 and 43.
fn iq2_eight(entry: u32, signs: u32) -> Codes {
    let lo = two_bits4(entry);
    let hi = two_bits4(entry >> 8u);
    return Codes(
        signed4(vec4<u32>(8u) + lo * 17u + (lo >> vec4<u32>(1u)), signs),
        signed4(vec4<u32>(8u) + hi * 17u + (hi >> vec4<u32>(1u)), signs >> 4u),
    );
}

// Eight weights of the IQ1 grid, -1, 0 and 1, moved by `delta`.
fn iq1_eight(entry: u32, delta: f32) -> Codes {
    return Codes(
        vec4<f32>(two_bits4(entry)) + (delta - 1.0),
        vec4<f32>(two_bits4(entry >> 8u)) + (delta - 1.0),
    );
}
