// out[t][c] = sum over j of weight[c][j] x[t - kernel + 1 + j][c], plus bias; zeros before the first token.
// Grid: (columns / 128, 1). A lane takes a channel through all tokens, so it alone touches its column of the state.
#import lib/step

struct Params {
    width: u32,
    kernel: u32,
    has_bias: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;           // [n_tokens, width]
@group(0) @binding(3) var<storage, read> weight: array<f32>;      // [width, kernel]
@group(0) @binding(4) var<storage, read> bias: array<f32>;        // [width]
@group(0) @binding(5) var<storage, read_write> state: array<f32>; // [kernel - 1, width]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;   // [n_tokens, width]

// Input `at` of channel `c`, counted from the first one that the state holds.
fn input(at: u32, c: u32) -> f32 {
    let before = params.kernel - 1u;
    if at >= before {
        return x[(at - before) * params.width + c];
    }
    if step.pos == 0u {
        return 0.0;
    }
    return state[at * params.width + c];
}

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    if c >= params.width {
        return;
    }
    for (var t = 0u; t < step.n_tokens; t++) {
        var sum = 0.0;
        if params.has_bias != 0u {
            sum = bias[c];
        }
        for (var j = 0u; j < params.kernel; j++) {
            sum += weight[c * params.kernel + j] * input(t + j, c);
        }
        out[t * params.width + c] = sum;
    }
    // In rising order: an element is read before it is overwritten.
    for (var i = 0u; i + 1u < params.kernel; i++) {
        let next = input(i + step.n_tokens, c);
        state[i * params.width + c] = next;
    }
}
