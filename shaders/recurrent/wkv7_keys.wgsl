// RWKV 7: what a token writes, forgets and adds: [k (1 + (a - 1) replacement), -kk, kk a], kk the unit vector of
// k removal in each head, a = sigmoid(rate).
// Grid: (heads, tokens). A lane takes an element of the head.
#import lib/step

struct Params {
    n_heads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> k: array<f32>;           // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> rate: array<f32>;        // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> removal: array<f32>;     // [n_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> replacement: array<f32>; // [n_heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;   // [n_tokens, 3, n_heads, HEAD_DIM]

var<workgroup> removed: array<f32, HEAD_DIM>;

@compute @workgroup_size(HEAD_DIM)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let t = group.y;
    if t >= step.n_tokens {
        return;
    }
    let c = group.x * HEAD_DIM + lane;
    let width = params.n_heads * HEAD_DIM;
    let key = k[t * width + c];
    removed[lane] = key * removal[c];
    workgroupBarrier();
    var squares = 0.0;
    for (var i = 0u; i < HEAD_DIM; i++) {
        squares += removed[i] * removed[i];
    }
    let unit = removed[lane] / max(sqrt(squares), 1e-12);
    let a = 1.0 / (1.0 + exp(min(-rate[t * width + c], 80.0)));
    let at = 3u * t * width + c;
    out[at] = key * (1.0 + (a - 1.0) * replacement[c]);
    out[at + width] = -unit;
    out[at + 2u * width] = unit * a;
}
