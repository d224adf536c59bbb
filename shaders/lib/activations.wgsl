// Activation functions, chosen by number: 0: silu, 1: gelu (tanh form), 2: gelu; of gates also 3: clamped swiglu.

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

fn activate(activation: u32, x: f32) -> f32 {
    if activation == 1u {
        return gelu_tanh(x);
    }
    if activation == 2u {
        return gelu(x);
    }
    return silu(x);
}

// activation(gate) * up; `alpha` and `limit` are of the clamped swiglu.
fn gated(activation: u32, alpha: f32, limit: f32, gate: f32, up: f32) -> f32 {
    if activation == 3u {
        let x = min(gate, limit);
        return x / (1.0 + exp(min(-alpha * x, 80.0))) * (clamp(up, -limit, limit) + 1.0);
    }
    return activate(activation, gate) * up;
}
