// Elements 4 d to 4 d + 3 of a head's keys and values, heads counted over kv heads, then positions.
#if KV_BITS
#if KV_HALF
fn load_k(row: u32, d: u32) -> vec4<f32> {
    let at = row * KV_ROW + 2u * d;
    return vec4<f32>(unpack2x16float(k_cache[at]), unpack2x16float(k_cache[at + 1u]));
}

fn load_v(row: u32, d: u32) -> vec4<f32> {
    let at = row * KV_ROW + 2u * d;
    return vec4<f32>(unpack2x16float(v_cache[at]), unpack2x16float(v_cache[at + 1u]));
}
#else
// Where the codes stand, and the scale of their block.
fn code_at(row: u32, d: u32) -> u32 {
    return row * KV_ROW + d * KV_BITS / 8u;
}

fn scale_at(row: u32, d: u32) -> u32 {
    return row * KV_ROW + KV_BLOCKS * KV_BITS + d / 8u;
}

// Signed codes: shifted up until their sign is the word's, and down again.
fn decoded(word: u32, scale: u32, d: u32) -> vec4<f32> {
    let up = (vec4<u32>(32u) - KV_BITS * vec4<u32>(1u, 2u, 3u, 4u)) - 4u * KV_BITS * (d % (8u / KV_BITS));
    let codes = bitcast<vec4<i32>>(vec4<u32>(word) << up) >> vec4<u32>(32u - KV_BITS);
    return vec4<f32>(codes) * bitcast<f32>(scale);
}

fn load_k(row: u32, d: u32) -> vec4<f32> {
    return decoded(k_cache[code_at(row, d)], k_cache[scale_at(row, d)], d);
}

fn load_v(row: u32, d: u32) -> vec4<f32> {
    return decoded(v_cache[code_at(row, d)], v_cache[scale_at(row, d)], d);
}
#endif
#else
fn load_k(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(k_cache[row * D4 + d]);
}

fn load_v(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(v_cache[row * D4 + d]);
}
#endif
