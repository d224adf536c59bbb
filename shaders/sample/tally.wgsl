// Of each run of logits the sum of the weights (probabilities before they are divided by their sum), and by buckets how
// many logits there are and what they weigh, in units of 2^-19, rounded down. Grid: (runs). 256 lanes, one a bucket too.
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
@group(0) @binding(6) var<storage, read_write> tallies: array<vec2<u32>>; // [n_runs, N_BUCKETS]: number, weight

#import sample/bucket
#import sample/largest_of_runs
#import sample/sum_of_lanes

var<workgroup> numbers: array<atomic<u32>, N_BUCKETS>;
var<workgroup> weights: array<atomic<u32>, N_BUCKETS>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
#if SUBGROUPS
    @builtin(subgroup_size) subgroup_lanes: u32,
#endif
) {
    if step.n_outputs == 0u {
        return;
    }
    largest_of_runs(lane, params.n_runs, subgroup_lanes);
    let largest = lane_values[0];
    // All tokens are drawn from but those that min_p leaves out; of candidates that is cut off later.
    let lowest = select(sampling.lowest, max(sampling.lowest, sampling.min_p), sampling.mode == PLAIN);
    var sum = 0.0;
    let end = min((group.x + 1u) * RUN, params.n_vocab);
    for (var i = group.x * RUN + lane; i < end; i += LANES) {
        let below = logits[i] - largest;
        if below >= lowest {
            let weight = exp(below * sampling.scale);
            sum += weight;
            if sampling.mode == CANDIDATES {
                let bucket = bucket_of(below);
                atomicAdd(&numbers[bucket], 1u);
                atomicAdd(&weights[bucket], u32(weight * 524288.0));
            }
        }
    }
    workgroupBarrier();
    sum = sum_of_lanes(lane, sum);
    if lane == 0u {
        sums[group.x] = sum;
    }
    if sampling.mode == CANDIDATES {
        tallies[group.x * N_BUCKETS + lane] = vec2<u32>(atomicLoad(&numbers[lane]), atomicLoad(&weights[lane]));
    }
}
