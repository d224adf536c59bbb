// out[t] = x[t - 1]; the first token gets what the step before ended with, zeros at position 0.
// Grid: (columns / 128, 1). A lane takes a column through all tokens, so it alone touches its element of the state.
#import lib/step

struct Params {
    width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;           // [n_tokens, width]
@group(0) @binding(3) var<storage, read_write> state: array<f32>; // [width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;   // [n_tokens, width]

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    if c >= params.width {
        return;
    }
    var before = 0.0;
    if step.pos != 0u {
        before = state[c];
    }
    for (var t = 0u; t < step.n_tokens; t++) {
        out[t * params.width + c] = before;
        before = x[t * params.width + c];
    }
    state[c] = before;
}
