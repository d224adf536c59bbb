// RMS or layer norm over the width of a row.
// Grid: (1, rows). 128 lanes a row; sums meet in workgroup memory, where every lane adds them up in the same order.
#import lib/step

struct Params {
    width: u32,
    outputs: u32,
    layer_norm: u32, // 1: subtract the mean
    has_bias: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [rows, width]
@group(0) @binding(3) var<storage, read> weight: array<f32>;    // [width]
@group(0) @binding(4) var<storage, read> bias: array<f32>;      // [width]
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [rows, width]

const LANES: u32 = 128u;

var<workgroup> squares: array<f32, LANES>;
var<workgroup> totals: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.y;
    if row >= value_rows(params.outputs) {
        return;
    }
    let first = row * params.width;
    var mean = 0.0;
    if params.layer_norm != 0u {
        var total = 0.0;
        for (var i = lane; i < params.width; i += LANES) {
            total += x[first + i];
        }
        totals[lane] = total;
        workgroupBarrier();
        for (var i = 0u; i < LANES; i++) {
            mean += totals[i];
        }
        mean /= f32(params.width);
    }
    var square = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        let centred = x[first + i] - mean;
        square += centred * centred;
    }
    squares[lane] = square;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += squares[i];
    }
    let factor = 1.0 / sqrt(sum / f32(params.width) + params.eps);
    for (var i = lane; i < params.width; i += LANES) {
        var value = (x[first + i] - mean) * factor * weight[i];
        if params.has_bias != 0u {
            value += bias[i];
        }
        out[first + i] = value;
    }
}
