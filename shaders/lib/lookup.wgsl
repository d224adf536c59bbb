// Codes of four bits that index sixteen signed bytes.
#import lib/weights

fn lookup(values: vec4<u32>, code: u32) -> u32 {
    return (values[code >> 2u] >> ((code & 3u) * 8u)) & 0xffu;
}

// The values of four codes, one in the low bits of each byte of `codes`.
fn lookup4(values: vec4<u32>, codes: u32) -> vec4<f32> {
    let word = lookup(values, codes & 15u)
        | (lookup(values, (codes >> 8u) & 15u) << 8u)
        | (lookup(values, (codes >> 16u) & 15u) << 16u)
        | (lookup(values, (codes >> 24u) & 15u) << 24u);
    return signed_bytes4(word);
}

// IQ4: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
const IQ4_VALUES = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

// Twice the 4-bit floats: 0, 1, 2, 3, 4, 6, 8, 12 and the same negative.
const FP4_VALUES = vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);
