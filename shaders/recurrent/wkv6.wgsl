// RWKV 5 and 6, and the gated linear attention of RWKV6-Qwen2: per head a matrix of keys by values that decays per key.
// Grid: (heads, 1). A lane takes a column of values, kept in private memory, through all tokens.
#import lib/step

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    constant_decay: u32, // 1: decay is one row for all tokens
    has_first: u32,      // 0: read after the update, keys times (1 - decay)
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> r: array<f32>;           // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> k: array<f32>;           // [n_tokens, n_kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> v: array<f32>;           // [n_tokens, n_kv_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> decay: array<f32>;       // [n_tokens or 1, n_heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read> first: array<f32>;       // [n_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> state: array<f32>; // [n_heads, HEAD_DIM, HEAD_DIM]
@group(0) @binding(8) var<storage, read_write> out: array<f32>;   // [n_tokens, n_heads, HEAD_DIM]

var<workgroup> receptance: array<f32, HEAD_DIM>;
var<workgroup> key: array<f32, HEAD_DIM>;
var<workgroup> factor: array<f32, HEAD_DIM>;
var<workgroup> bonus: array<f32, HEAD_DIM>;

@compute @workgroup_size(HEAD_DIM)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let head = group.x;
    let kv_head = head / (params.n_heads / params.n_kv_heads);
    let base = head * HEAD_DIM * HEAD_DIM + lane;
    var column: array<f32, HEAD_DIM>;
    if step.pos != 0u {
        for (var i = 0u; i < HEAD_DIM; i++) {
            column[i] = state[base + i * HEAD_DIM];
        }
    }
    if params.has_first != 0u {
        bonus[lane] = first[head * HEAD_DIM + lane];
    }
    for (var t = 0u; t < step.n_tokens; t++) {
        let at = (t * params.n_heads + head) * HEAD_DIM + lane;
        let kv_at = (t * params.n_kv_heads + kv_head) * HEAD_DIM + lane;
        let decay_at = select(at, head * HEAD_DIM + lane, params.constant_decay != 0u);
        workgroupBarrier();
        receptance[lane] = r[at];
        key[lane] = k[kv_at];
        factor[lane] = exp(-min(exp(min(decay[decay_at], 80.0)), 87.0));
        workgroupBarrier();
        let value = v[kv_at];
        var sum = 0.0;
        for (var i = 0u; i < HEAD_DIM; i++) {
            let s = column[i];
            if params.has_first != 0u {
                let kv = key[i] * value;
                sum += receptance[i] * (s + bonus[i] * kv);
                column[i] = factor[i] * s + kv;
            } else {
                let next = factor[i] * s + (1.0 - factor[i]) * key[i] * value;
                sum += receptance[i] * next;
                column[i] = next;
            }
        }
        out[at] = sum * params.scale;
    }
    for (var i = 0u; i < HEAD_DIM; i++) {
        state[base + i * HEAD_DIM] = column[i];
    }
}
