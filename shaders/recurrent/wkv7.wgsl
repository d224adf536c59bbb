// RWKV 7: per head a matrix of keys by values under the generalised delta rule.
// Grid: (heads, 1). A lane takes a column of values, kept in private memory, through all tokens.
#import lib/step

struct Params {
    n_heads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> r: array<f32>;           // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> decay: array<f32>;       // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> keys: array<f32>;        // [n_tokens, 3, n_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> v: array<f32>;           // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read_write> state: array<f32>; // [n_heads, HEAD_DIM, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> out: array<f32>;   // [n_tokens, n_heads, HEAD_DIM]

var<workgroup> receptance: array<f32, HEAD_DIM>;
var<workgroup> factor: array<f32, HEAD_DIM>;
var<workgroup> written: array<f32, HEAD_DIM>;
var<workgroup> forgotten: array<f32, HEAD_DIM>;
var<workgroup> added: array<f32, HEAD_DIM>;

@compute @workgroup_size(HEAD_DIM)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let head = group.x;
    let width = params.n_heads * HEAD_DIM;
    let base = head * HEAD_DIM * HEAD_DIM + lane;
    var column: array<f32, HEAD_DIM>;
    if step.pos != 0u {
        for (var i = 0u; i < HEAD_DIM; i++) {
            column[i] = state[base + i * HEAD_DIM];
        }
    }
    for (var t = 0u; t < step.n_tokens; t++) {
        let at = t * width + head * HEAD_DIM + lane;
        let keys_at = 3u * t * width + head * HEAD_DIM + lane;
        workgroupBarrier();
        receptance[lane] = r[at];
        // 0.60653067 is e^(-1/2).
        factor[lane] = exp(-0.60653067 / (1.0 + exp(min(-decay[at], 80.0))));
        written[lane] = keys[keys_at];
        forgotten[lane] = keys[keys_at + width];
        added[lane] = keys[keys_at + 2u * width];
        workgroupBarrier();
        let value = v[at];
        var removed = 0.0;
        for (var i = 0u; i < HEAD_DIM; i++) {
            removed += forgotten[i] * column[i];
        }
        var sum = 0.0;
        for (var i = 0u; i < HEAD_DIM; i++) {
            let next = factor[i] * column[i] + added[i] * removed + written[i] * value;
            sum += receptance[i] * next;
            column[i] = next;
        }
        out[at] = sum;
    }
    for (var i = 0u; i < HEAD_DIM; i++) {
        state[base + i * HEAD_DIM] = column[i];
    }
}
