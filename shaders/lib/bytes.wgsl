// Weights at any byte: for formats whose blocks have an odd number of bytes.
#import lib/weights

fn load_u8(byte: u32) -> u32 {
    return (weights[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
}

// 32 bits from any byte offset. Both words are always read, as in load_u32_at_2.
fn load_u32_at_1(byte: u32) -> u32 {
    let word = byte >> 2u;
    let shift = (byte & 3u) * 8u;
    // Shifted twice: by 32 at once is not defined.
    return (weights[word] >> shift) | ((weights[word + 1u] << (24u - shift)) << 8u);
}
