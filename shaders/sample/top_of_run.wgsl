// The most probable tokens of each run of 4096 logits, and the sum of all its weights, of the first row; and keeps the
// logits as they stand, before anything is added to them. Grid: (runs). 256 lanes a run.
#import lib/step
#import sample/sampling
#import sample/largest

struct Params {
    n_vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> logits: array<f32>;           // [n_outputs, n_vocab]
@group(0) @binding(4) var<storage, read_write> raw: array<f32>;        // [n_vocab]
@group(0) @binding(5) var<storage, read_write> tops: array<vec2<u32>>; // [runs, TOP_WORDS]: bits of largest and sum; bits of a logit, id

#import sample/descending
#import sample/sum_of_lanes

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
#import lib/subgroup_lanes
) {
    if step.n_outputs == 0u {
        return;
    }
    let first = group.x * RUN;
    let end = min(first + RUN, params.n_vocab);
    for (var i = first + lane; i < end; i += LANES) {
        raw[i] = logits[i];
    }
    var largest = LOWEST;
    for (var n = 1u; n <= max(sampling.n_top, 1u); n++) {
        for (var i = first + lane; i < end; i += LANES) {
            offer(logits[i], i);
        }
        take_next(lane, subgroup_lanes);
        largest = max(largest, last);
        if lane == 0u {
            tops[group.x * TOP_WORDS + n] = vec2<u32>(bitcast<u32>(last), last_id);
        }
    }
    var sum = 0.0;
    for (var i = first + lane; i < end; i += LANES) {
        sum += exp(max(logits[i] - largest, LEAST_POWER));
    }
    sum = sum_of_lanes(lane, sum);
    if lane == 0u {
        tops[group.x * TOP_WORDS] = vec2<u32>(bitcast<u32>(largest), bitcast<u32>(sum));
    }
}
