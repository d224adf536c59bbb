// Stores blocks of 32 elements of a head. Needs attention/rope.
var<private> block: array<f32, 32>;

fn put(is_v: bool, at: u32, word: u32) {
    if is_v {
        v_cache[at] = word;
    } else {
        k_cache[at] = word;
    }
}

// The one of a pair's two elements that is element `i` of its head.
fn of_pair(i: u32, two: vec2<f32>) -> f32 {
    return select(two.x, two.y, elements(pair_of(i)).y == i);
}

// Keeps `block` as block `index` of the cache's row `row`.
fn store_block(is_v: bool, row: u32, index: u32) {
    let first = row * KV_ROW + index * KV_BITS;
#if KV_HALF
    for (var w = 0u; w < KV_BITS; w++) {
        let two = vec2<f32>(block[2u * w], block[2u * w + 1u]);
        put(is_v, first + w, pack2x16float(clamp(two, vec2<f32>(-65504.0), vec2<f32>(65504.0))));
    }
#else
    // As ggml's quantisers do: the largest magnitude is 127 units, or its signed value -8.
    var extreme = 0.0;
    for (var i = 0u; i < 32u; i++) {
        if abs(block[i]) > abs(extreme) {
            extreme = block[i];
        }
    }
    var unit = abs(extreme) / 127.0;
    if KV_BITS == 4u {
        unit = extreme / -8.0;
    }
    var inverse = 0.0;
    if abs(extreme) > 1e-30 {
        inverse = 1.0 / unit;
    }
    let limit = f32(1u << (KV_BITS - 1u));
    let n = 32u / KV_BITS;
    for (var w = 0u; w < KV_BITS; w++) {
        var word = 0u;
        for (var i = 0u; i < n; i++) {
            let code = clamp(floor(block[w * n + i] * inverse + 0.5), -limit, limit - 1.0);
            word |= (bitcast<u32>(i32(code)) & ((1u << KV_BITS) - 1u)) << (KV_BITS * i);
        }
        put(is_v, first + w, word);
    }
    // Rounded to a half float's fraction by hand: drivers leave out packing that is undone at once.
    let bits = bitcast<u32>(unit);
    let scale = (bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u;
    put(is_v, row * KV_ROW + KV_BLOCKS * KV_BITS + index, scale);
#endif
}
