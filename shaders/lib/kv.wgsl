// Element type of the key/value cache. A cache is [kv_head][position][4 * D4]: heads are filled up with zeros.
const D4: u32 = (HEAD_DIM + 3u) / 4u;

#if F16
alias kv_t = f16;

// Beyond f16's largest value lies infinity, and one infinite key spoils every later score.
fn to_kv(value: f32) -> f16 {
    return f16(clamp(value, -65504.0, 65504.0));
}
#else
alias kv_t = f32;

fn to_kv(value: f32) -> f32 {
    return value;
}
#endif
