// Elements of the key/value cache, [position, n_kv_heads, a head filled up with zeros]: what is cached keeps its place
// when positions are added. Floats stand alone, 4 * D4 of them a head; or a head is blocks of 32 elements in KV_BITS
// words each, half floats or codes, and behind all blocks a scale each, where they are codes: KV_ROW words in all.
const D4: u32 = (HEAD_DIM + 3u) / 4u;

#if KV_BITS
const KV_BLOCKS: u32 = (HEAD_DIM + 31u) / 32u;

alias kv_t = u32;
alias kv_four_t = u32;
#else
#if F16
alias kv_t = f16;
alias kv_four_t = vec4<f16>;

// Beyond f16's largest value lies infinity, and one infinite key spoils every later score.
fn to_kv(value: f32) -> f16 {
    return f16(clamp(value, -65504.0, 65504.0));
}
#else
alias kv_t = f32;
alias kv_four_t = vec4<f32>;

fn to_kv(value: f32) -> f32 {
    return value;
}
#endif
#endif
