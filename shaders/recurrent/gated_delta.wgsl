// Qwen3-Next and Qwen3.5: per value head a matrix of keys by values under the gated delta rule.
// Grid: (value heads, 1). A lane takes a column of values, kept in private memory, through all tokens.
#import lib/step

struct Params {
    n_k_heads: u32,
    n_v_heads: u32,
    tiled: u32, // 1: value head h goes with key head h % n_k_heads, else neighbours share one
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;         // [n_tokens, 2 n_k_heads + n_v_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> alpha: array<f32>;       // [n_tokens, n_v_heads]
@group(0) @binding(4) var<storage, read> beta: array<f32>;        // [n_tokens, n_v_heads]
@group(0) @binding(5) var<storage, read> decay: array<f32>;       // [n_v_heads]
@group(0) @binding(6) var<storage, read> dt_bias: array<f32>;     // [n_v_heads]
@group(0) @binding(7) var<storage, read_write> state: array<f32>; // [n_v_heads, HEAD_DIM, HEAD_DIM]
@group(0) @binding(8) var<storage, read_write> out: array<f32>;   // [n_tokens, n_v_heads, HEAD_DIM]

var<workgroup> query: array<f32, HEAD_DIM>;
var<workgroup> key: array<f32, HEAD_DIM>;

// ln(1 + e^x)
fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log(1.0 + exp(-min(abs(x), 80.0)));
}

@compute @workgroup_size(HEAD_DIM)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let head = group.x;
    let k_head = select(head / (params.n_v_heads / params.n_k_heads), head % params.n_k_heads, params.tiled != 0u);
    let row = (2u * params.n_k_heads + params.n_v_heads) * HEAD_DIM;
    let base = head * HEAD_DIM * HEAD_DIM + lane;
    var column: array<f32, HEAD_DIM>;
    if step.pos != 0u {
        for (var i = 0u; i < HEAD_DIM; i++) {
            column[i] = state[base + i * HEAD_DIM];
        }
    }
    for (var t = 0u; t < step.n_tokens; t++) {
        let gates = t * params.n_v_heads + head;
        workgroupBarrier();
        query[lane] = qkv[t * row + k_head * HEAD_DIM + lane];
        key[lane] = qkv[t * row + (params.n_k_heads + k_head) * HEAD_DIM + lane];
        workgroupBarrier();
        let value = qkv[t * row + (2u * params.n_k_heads + head) * HEAD_DIM + lane];
        let factor = exp(max(decay[head] * softplus(alpha[gates] + dt_bias[head]), -87.0));
        let b = 1.0 / (1.0 + exp(min(-beta[gates], 80.0)));
        var q_squares = 0.0;
        var k_squares = 0.0;
        var known = 0.0;
        for (var i = 0u; i < HEAD_DIM; i++) {
            q_squares += query[i] * query[i];
            k_squares += key[i] * key[i];
            known += key[i] * column[i];
        }
        let k_factor = 1.0 / sqrt(k_squares + 1e-6);
        let q_factor = 1.0 / sqrt((q_squares + 1e-6) * f32(HEAD_DIM));
        let delta = k_factor * b * (value - known * factor * k_factor);
        var sum = 0.0;
        for (var i = 0u; i < HEAD_DIM; i++) {
            let next = factor * column[i] + key[i] * delta;
            sum += query[i] * next;
            column[i] = next;
        }
        out[t * params.n_v_heads * HEAD_DIM + head * HEAD_DIM + lane] = sum * q_factor;
    }
    for (var i = 0u; i < HEAD_DIM; i++) {
        state[base + i * HEAD_DIM] = column[i];
    }
}
