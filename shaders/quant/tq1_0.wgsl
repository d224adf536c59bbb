// TQ1_0: 256 elements in 54 bytes: qs[48], qh[4], d f16. Five trits a byte, trit n the integer part of
// 3 * frac(3^n * byte / 256); 32 bytes of qs, then 16, then qh with four a byte; d * (trit - 1).
fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let d = half_to_f32(load_u16((row_block + (chunk >> 3u)) * 54u + 52u));
    return vec3<f32>(d, d, 0.0);
}

// Trit `n` of the four bytes of `word`, minus one.
fn trits4(word: u32, n: u32) -> vec4<f32> {
    let power = select(select(select(select(81u, 27u, n == 3u), 9u, n == 2u), 3u, n == 1u), 1u, n == 0u);
    let bytes = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
    return vec4<f32>((((bytes * power) & vec4<u32>(0xffu)) * 3u) >> vec4<u32>(8u)) - 1.0;
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = (row_block + (chunk >> 3u)) * 54u;
    let first = (chunk & 7u) * 32u + part * 8u;
    if first >= 240u {
        let n = (first - 240u) >> 2u;
        let word = load_u32_at_2(block + 48u);
        return Codes(trits4(word, n), trits4(word, n + 1u));
    }
    var byte = block + part * 8u;
    var n = chunk & 7u;
    if first >= 160u {
        byte = block + 32u + (first & 15u);
        n = (first - 160u) >> 4u;
    }
    return Codes(trits4(load_u32_at_2(byte), n), trits4(load_u32_at_2(byte + 4u), n));
}
