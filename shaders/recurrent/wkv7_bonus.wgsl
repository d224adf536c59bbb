// RWKV 7: the current token's bonus, per head: out = x + (sum of r k weight) v; out may be x itself.
// Grid: (heads, tokens). A lane takes an element of the head.
#import lib/step

struct Params {
    n_heads: u32,
    in_place: u32, // 1: x is `out`
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> r: array<f32>;         // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> keys: array<f32>;      // [n_tokens, 3, n_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> v: array<f32>;         // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read> weight: array<f32>;    // [n_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> out: array<f32>; // [n_tokens, n_heads, HEAD_DIM]

var<workgroup> products: array<f32, HEAD_DIM>;

@compute @workgroup_size(HEAD_DIM)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let t = group.y;
    if t >= step.n_tokens {
        return;
    }
    let c = group.x * HEAD_DIM + lane;
    let width = params.n_heads * HEAD_DIM;
    let at = t * width + c;
    products[lane] = r[at] * keys[3u * t * width + c] * weight[c];
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < HEAD_DIM; i++) {
        sum += products[i];
    }
    var before = x[at];
    if params.in_place != 0u {
        before = out[at];
    }
    out[at] = before + sum * v[at];
}
