// Columns in the order of a weight: out[t][i] = x[t][index[i]].
// Grid: (columns / 128, rows).
#import lib/step

struct Params {
    width: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [rows, width]
@group(0) @binding(3) var<storage, read> index: array<f32>;     // [width], whole numbers
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width || id.y >= value_rows(params.outputs) {
        return;
    }
    let column = min(u32(index[id.x]), params.width - 1u);
    out[id.y * params.width + id.x] = x[id.y * params.width + column];
}
