// out = activation(gate) * up, where one value holds both: runs of n_ff gates and then n_ff multipliers.
// Grid: (columns / 128, rows).
#import lib/activations
#import lib/step

struct Params {
    width: u32,      // of a row of results
    n_ff: u32,       // of a run of results
    outputs: u32,
    activation: u32, // as lib/activations counts them
    alpha: f32,
    limit: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [rows, width / n_ff, 2 * n_ff]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [rows, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width || id.y >= value_rows(params.outputs) {
        return;
    }
    let at = id.y * params.width + id.x;
    let col = id.x % params.n_ff;
    let gate = 2u * (at - col) + col;
    out[at] = gated(params.activation, params.alpha, params.limit, x[gate], x[gate + params.n_ff]);
}
