// out = add + sum over j of (coefs[first + j] + offset) streams[j]: up to four streams under weights by token.
// Grid: (columns / 128, rows).
#import lib/step

struct Params {
    width: u32,
    outputs: u32,
    n_streams: u32,
    n_coefs: u32, // elements of a row of coefs
    first: u32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> stream_0: array<f32>;  // [rows, width]
@group(0) @binding(3) var<storage, read> stream_1: array<f32>;  // [rows, width]
@group(0) @binding(4) var<storage, read> stream_2: array<f32>;  // [rows, width]
@group(0) @binding(5) var<storage, read> stream_3: array<f32>;  // [rows, width]
@group(0) @binding(6) var<storage, read> coefs: array<f32>;     // [rows, n_coefs]
@group(0) @binding(7) var<storage, read> addend: array<f32>;    // [rows, width]
@group(0) @binding(8) var<storage, read_write> out: array<f32>; // [rows, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width || id.y >= value_rows(params.outputs) {
        return;
    }
    let at = id.y * params.width + id.x;
    let coef = id.y * params.n_coefs + params.first;
    var sum = addend[at] + (coefs[coef] + params.offset) * stream_0[at];
    if params.n_streams > 1u {
        sum += (coefs[coef + 1u] + params.offset) * stream_1[at];
    }
    if params.n_streams > 2u {
        sum += (coefs[coef + 2u] + params.offset) * stream_2[at];
    }
    if params.n_streams > 3u {
        sum += (coefs[coef + 3u] + params.offset) * stream_3[at];
    }
    out[at] = sum;
}
