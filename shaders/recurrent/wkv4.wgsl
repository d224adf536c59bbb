// RWKV 4: per channel the mean of all values, weighted by e^key and decaying, with the largest exponent kept apart.
// Grid: (columns / 128, 1). A lane takes a channel through all tokens.
#import lib/step

struct Params {
    width: u32,
    first_max: f32, // largest exponent before the first token
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> k: array<f32>;           // [n_tokens, width]
@group(0) @binding(3) var<storage, read> v: array<f32>;           // [n_tokens, width]
@group(0) @binding(4) var<storage, read> decay: array<f32>;       // [width]
@group(0) @binding(5) var<storage, read> first: array<f32>;       // [width]
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;  // [2, width]
@group(0) @binding(7) var<storage, read_write> maxima: array<f32>; // [width]
@group(0) @binding(8) var<storage, read_write> out: array<f32>;   // [n_tokens, width]

// e^x for x <= 0; what lies below the smallest normal number counts as that.
fn shrink(x: f32) -> f32 {
    return exp(max(x, -87.0));
}

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x;
    if c >= params.width {
        return;
    }
    var num = 0.0;
    var den = 0.0;
    var largest = params.first_max;
    if step.pos != 0u {
        num = sums[c];
        den = sums[params.width + c];
        largest = maxima[c];
    }
    let loss = exp(decay[c]);
    for (var t = 0u; t < step.n_tokens; t++) {
        let at = t * params.width + c;
        let key = k[at];
        let value = v[at];
        let with_bonus = max(largest, first[c] + key);
        let then = shrink(largest - with_bonus);
        let now = shrink(first[c] + key - with_bonus);
        out[at] = (then * num + now * value) / (then * den + now);
        let next = max(largest - loss, key);
        let kept = shrink(largest - loss - next);
        let added = shrink(key - next);
        num = kept * num + added * value;
        den = kept * den + added;
        largest = next;
    }
    sums[c] = num;
    sums[params.width + c] = den;
    maxima[c] = largest;
}
