// Of each run of logits the sum of the weights (probabilities before they are divided by their sum), where all tokens are
// drawn from but those that min_p leaves out. Grid: (runs). 256 lanes.
#import lib/step
#import sample/sampling
#import sample/largest

struct Params {
    n_vocab: u32,
    n_runs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> runs: array<vec2<u32>>;          // bits of the largest logit, id
@group(0) @binding(4) var<storage, read> logits: array<f32>;              // [n_outputs, n_vocab]
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;          // [n_runs]

#import sample/largest_of_runs
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
    largest_of_runs(lane, params.n_runs, subgroup_lanes);
    let largest = lane_values[0];
    let lowest = max(sampling.lowest, sampling.min_p);
    var sum = 0.0;
    let end = min((group.x + 1u) * RUN, params.n_vocab);
    for (var i = group.x * RUN + lane; i < end; i += LANES) {
        let below = logits[i] - largest;
        if below >= lowest {
            sum += exp(below * sampling.scale);
        }
    }
    workgroupBarrier();
    sum = sum_of_lanes(lane, sum);
    if lane == 0u {
        sums[group.x] = sum;
    }
}
