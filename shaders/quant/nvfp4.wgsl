// NVFP4: 64 elements in 36 bytes: d[4] unsigned E4M3, qs[32]; four sub-blocks of 16, each 8 bytes, low nibbles first;
// d / 2 * value, indices of FP4_VALUES. Planes of 4 blocks: d, qs.
#import lib/lookup

// Half an unsigned E4M3 number.
fn half_e4m3(bits: u32) -> f32 {
    let normal = bitcast<f32>(((bits & 0x7fu) << 20u) + (119u << 23u));
    let subnormal = f32(bits & 7u) * 0.0009765625;
    let value = select(normal, subnormal, (bits & 0x78u) == 0u);
    return select(value, 0.0, bits == 0x7fu);
}

fn q_scale(row_block: u32, chunk: u32) -> vec3<f32> {
    let block = row_block + (chunk >> 1u);
    let scales = weights[(block >> 2u) * 9u][block & 3u] >> ((chunk & 1u) * 16u);
    return vec3<f32>(half_e4m3(scales & 0xffu), half_e4m3((scales >> 8u) & 0xffu), 0.0);
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let block = row_block + (chunk >> 1u);
    let eight = load_eight((block >> 2u) * 9u + 1u + (block & 3u) * 2u + (chunk & 1u), part >> 1u);
    let shift = (part & 1u) * 4u;
    return Codes(lookup4(FP4_VALUES, eight.x >> shift), lookup4(FP4_VALUES, eight.y >> shift));
}
