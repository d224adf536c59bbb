// out = activation(gate) * up, elementwise; out may be gate itself.
// Grid: (columns / 128, rows).
#import lib/step
#import lib/activations

struct Params {
    width: u32,
    outputs: u32,
    activation: u32, // as lib/activations counts them
    in_place: u32,   // 1: gate is `out`
    alpha: f32,
    limit: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>;      // [rows, width]
@group(0) @binding(3) var<storage, read> up: array<f32>;        // [rows, width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width || id.y >= value_rows(params.outputs) {
        return;
    }
    let at = id.y * params.width + id.x;
    var x = gate[at];
    if params.in_place != 0u {
        x = out[at];
    }
    out[at] = gated(params.activation, params.alpha, params.limit, x, up[at]);
}
