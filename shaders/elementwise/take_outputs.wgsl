// Copies the rows whose logits are wanted: out[i] = x[first_output + i].
// Grid: (columns / 128, outputs).
#import lib/step

struct Params {
    width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n_tokens, width]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [n_outputs, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width || id.y >= step.n_outputs {
        return;
    }
    out[id.y * params.width + id.x] = x[(step.first_output + id.y) * params.width + id.x];
}
