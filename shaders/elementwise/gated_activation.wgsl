// out = activation(gate) * up, elementwise; out may be gate itself.
// Grid: (columns / 128, rows).
#import lib/step

struct Params {
    width: u32,
    outputs: u32,
    activation: u32, // 0: silu, 1: gelu (tanh form), 2: gelu
    in_place: u32,   // 1: gate is `out`
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>;      // [rows, width]
@group(0) @binding(3) var<storage, read> up: array<f32>;        // [rows, width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, width]

fn silu(x: f32) -> f32 {
    // exp beyond this overflows, which WGSL leaves open.
    return x / (1.0 + exp(min(-x, 80.0)));
}

fn gelu_tanh(x: f32) -> f32 {
    let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    return 0.5 * x * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
}

// erf by Abramowitz and Stegun 7.1.26; its error of 1.5e-7 is that of f32.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - poly * exp(-min(a * a, 80.0)));
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
}

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
    var activated = silu(x);
    if params.activation == 1u {
        activated = gelu_tanh(x);
    } else if params.activation == 2u {
        activated = gelu(x);
    }
    out[at] = activated * up[at];
}
