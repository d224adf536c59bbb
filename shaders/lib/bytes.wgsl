// Weights at any byte: for formats whose blocks have an odd number of bytes.
#import lib/weights

fn load_u8(byte: u32) -> u32 {
    return (load_word(byte >> 2u) >> ((byte & 3u) * 8u)) & 0xffu;
}
