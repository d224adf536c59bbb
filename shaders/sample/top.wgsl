// The most probable tokens of all runs, the logarithm of the sum of all weights, and the logit of the token drawn: what
// log-probabilities are made from. Runs behind the draw. Grid: (1). 256 lanes.
#import lib/step
#import sample/sampling
#import sample/largest

struct Params {
    n_runs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> raw: array<f32>;               // [n_vocab]
@group(0) @binding(4) var<storage, read> tops: array<vec2<u32>>;        // [runs, TOP_WORDS], of sample/top_of_run
@group(0) @binding(5) var<storage, read> chosen: array<vec2<u32>>;      // [steps]: ?, id of the token drawn
@group(0) @binding(6) var<storage, read_write> found: array<vec2<u32>>; // [steps, TOP_WORDS]: bits of logarithm and logit; bits of a logit, id

#import sample/descending
#import sample/sum_of_lanes

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
#import lib/subgroup_lanes
) {
    // The draw has counted it already.
    let at = (max(step.n_chosen, 1u) - 1u) * TOP_WORDS;
    var largest = LOWEST;
    let n_each = max(sampling.n_top, 1u);
    for (var n = 1u; n <= n_each; n++) {
        for (var i = lane; i < params.n_runs * n_each; i += LANES) {
            let one = tops[i / n_each * TOP_WORDS + 1u + i % n_each];
            offer(bitcast<f32>(one.x), one.y);
        }
        take_next(lane, subgroup_lanes);
        largest = max(largest, last);
        if lane == 0u {
            found[at + n] = vec2<u32>(bitcast<u32>(last), last_id);
        }
    }
    var sum = 0.0;
    for (var run = lane; run < params.n_runs; run += LANES) {
        let part = tops[run * TOP_WORDS];
        sum += bitcast<f32>(part.y) * exp(max(bitcast<f32>(part.x) - largest, LEAST_POWER));
    }
    sum = sum_of_lanes(lane, sum);
    if lane == 0u {
        let token = chosen[max(step.n_chosen, 1u) - 1u].y;
        let logit = raw[min(token, arrayLength(&raw) - 1u)];
        found[at] = vec2<u32>(bitcast<u32>(largest + log(sum)), bitcast<u32>(logit));
    }
}
