// What takes the statistics of a whole row: out = x rms(like) / max(rms(x), sqrt(1e-5)), or
// out = max(x - (mean(x) + factor std(x)), 0).
// Grid: (1, rows). 128 lanes a row; sums meet in workgroup memory, where every lane adds them up in the same order.
#import lib/step

struct Params {
    width: u32,
    outputs: u32,
    top_k: u32, // 0: magnitude, 1: cut off below
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [rows, width]
@group(0) @binding(3) var<storage, read> like: array<f32>;      // [rows, width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, width]

const LANES: u32 = 128u;

var<workgroup> firsts: array<f32, LANES>;
var<workgroup> seconds: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.y;
    if row >= value_rows(params.outputs) {
        return;
    }
    let begin = row * params.width;
    let n = f32(params.width);
    var total = 0.0;
    if params.top_k != 0u {
        for (var i = lane; i < params.width; i += LANES) {
            total += x[begin + i];
        }
    }
    firsts[lane] = total;
    workgroupBarrier();
    var mean = 0.0;
    for (var i = 0u; i < LANES; i++) {
        mean += firsts[i];
    }
    mean /= n;
    workgroupBarrier();
    var square = 0.0;
    var wanted = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        let centred = x[begin + i] - mean;
        square += centred * centred;
        if params.top_k == 0u {
            wanted += like[begin + i] * like[begin + i];
        }
    }
    firsts[lane] = square;
    seconds[lane] = wanted;
    workgroupBarrier();
    square = 0.0;
    wanted = 0.0;
    for (var i = 0u; i < LANES; i++) {
        square += firsts[i];
        wanted += seconds[i];
    }
    let cutoff = mean + params.factor * sqrt(square / n);
    let magnitude = sqrt(wanted / n) / sqrt(max(square / n, 1e-5));
    for (var i = lane; i < params.width; i += LANES) {
        let value = x[begin + i];
        out[begin + i] = select(value * magnitude, max(value - cutoff, 0.0), params.top_k != 0u);
    }
}
