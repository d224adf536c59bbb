// out[t] = sum over j of (selection weight j) * x[t][j], plus a residual.
// Grid: (columns / 128, rows).
#import lib/step

struct Params {
    width: u32,
    n_used: u32,
    outputs: u32,
    addend: u32, // 0: none, 1: the binding `addend`, 2: `out` itself
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [rows, n_used, width]
@group(0) @binding(3) var<storage, read> selection: array<f32>; // [rows, 2 * n_used]
@group(0) @binding(4) var<storage, read> addend: array<f32>;    // [rows, width]
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [rows, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width || id.y >= value_rows(params.outputs) {
        return;
    }
    let at = id.y * params.width + id.x;
    var sum = 0.0;
    for (var j = 0u; j < params.n_used; j++) {
        let pair = id.y * params.n_used + j;
        sum += selection[(2u * id.y + 1u) * params.n_used + j] * x[pair * params.width + id.x];
    }
    if params.addend == 1u {
        sum += addend[at];
    } else if params.addend == 2u {
        sum += out[at];
    }
    out[at] = sum;
}
