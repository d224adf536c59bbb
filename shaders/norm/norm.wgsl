// RMS, layer or L2 norm over groups of a row's elements (the whole row, or each head).
// Grid: (groups, rows). 128 lanes a group; what they sum meets in workgroup memory.
#import lib/step
#import lib/subgroups

struct Params {
    width: u32,
    group: u32,        // elements normalised together
    outputs: u32,
    kind: u32,         // 0: RMS, 1: layer norm, 2: L2
    weight_width: u32, // elements of weight and bias: a group's, shared by all, or a row's; 0: no weight
    bias_width: u32,   // likewise
    in_place: u32,     // 1: x is `out`
    addend: u32,       // 0: none, 1: the binding `addend`, 2: `out` itself
    eps: f32,
    chosen: u32,       // 1: x has a row per token, of which the wanted outputs are taken
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [rows, width], or [n_tokens, width]
@group(0) @binding(3) var<storage, read> weight: array<f32>;    // [weight_width]
@group(0) @binding(4) var<storage, read> bias: array<f32>;      // [bias_width]
@group(0) @binding(5) var<storage, read> addend: array<f32>;    // [rows, width]
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [rows, width]

const LANES: u32 = 128u;

// Sums that every lane adds up in the same order: of a subgroup each or, without SUBGROUPS, of eight lanes.
var<workgroup> parts: array<f32, LANES>;
#if SUBGROUPS
#else
const N_PARTS: u32 = LANES / 8u;

var<workgroup> lane_sums: array<f32, LANES>;
#endif

// The sum of `value` over the lanes.
fn sum_of_lanes(lane: u32, value: f32, subgroup_lanes: u32) -> f32 {
#if SUBGROUPS
    let n_parts = LANES / subgroup_lanes;
    let part = subgroupAdd(value);
    if lane % subgroup_lanes == 0u {
        parts[lane / subgroup_lanes] = part;
    }
#else
    let n_parts = N_PARTS;
    lane_sums[lane] = value;
    workgroupBarrier();
    if lane < N_PARTS {
        var part = 0.0;
        for (var i = lane; i < LANES; i += N_PARTS) {
            part += lane_sums[i];
        }
        parts[lane] = part;
    }
#endif
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < n_parts; i++) {
        sum += parts[i];
    }
    return sum;
}

fn load(at: u32) -> f32 {
    if params.in_place != 0u {
        return out[at];
    }
    return x[at + params.chosen * step.first_output * params.width];
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
#import lib/subgroup_lanes
) {
    let row = group.y;
    if row >= value_rows(params.outputs) {
        return;
    }
    let first_col = group.x * params.group;
    let first = row * params.width + first_col;
    var mean = 0.0;
    if params.kind == 1u {
        var total = 0.0;
        for (var i = lane; i < params.group; i += LANES) {
            total += load(first + i);
        }
        mean = sum_of_lanes(lane, total, subgroup_lanes);
        // The next sum's parts take the place of this one's.
        workgroupBarrier();
        mean /= f32(params.group);
    }
    var square = 0.0;
    for (var i = lane; i < params.group; i += LANES) {
        let centred = load(first + i) - mean;
        square += centred * centred;
    }
    let sum = sum_of_lanes(lane, square, subgroup_lanes);
    var factor = 1.0 / sqrt(sum / f32(params.group) + params.eps);
    if params.kind == 2u {
        factor = 1.0 / max(sqrt(sum), params.eps);
    }
    for (var i = lane; i < params.group; i += LANES) {
        let at = first + i;
        var value = (load(at) - mean) * factor;
        if params.weight_width != 0u {
            value *= weight[(first_col + i) % params.weight_width];
        }
        if params.bias_width != 0u {
            value += bias[(first_col + i) % params.bias_width];
        }
        if params.addend == 1u {
            value += addend[at];
        } else if params.addend == 2u {
            value += out[at];
        }
        out[at] = value;
    }
}
