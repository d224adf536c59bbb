// As sample/arg_max, of logits on which biases, penalties and the mask are put first. Where candidates are wanted, also of
// each run the sum of the weights (probabilities before they are divided by their sum) relative to its largest, and by
// buckets how many logits there are and what they weigh, in units of 2^-19, rounded down.
// Grid: (runs). 256 lanes a run, one a bucket too.
#import lib/step
#import sample/sampling
#import sample/largest

struct Params {
    n_vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> limits: array<u32>;           // a bit a token that may be drawn; then biases: token, bits
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;     // [n_outputs, n_vocab]
@group(0) @binding(5) var<storage, read_write> runs: array<vec2<u32>>; // bits of the value, id
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;       // [n_runs]
@group(0) @binding(7) var<storage, read_write> tallies: array<vec2<u32>>; // [n_runs, N_BUCKETS]: number, weight

#import sample/largest_of_run
#import sample/sum_of_lanes
#import sample/bucket

var<workgroup> numbers: array<atomic<u32>, N_BUCKETS>;
var<workgroup> weights: array<atomic<u32>, N_BUCKETS>;

fn tally(lane: u32, run: u32) {
    workgroupBarrier();
    let largest = lane_values[0];
    var sum = 0.0;
    for (var i = run * RUN + lane; i < min((run + 1u) * RUN, params.n_vocab); i += LANES) {
        let below = logits[i] - largest;
        if below >= sampling.lowest {
            let weight = exp(below * sampling.scale);
            sum += weight;
            let bucket = bucket_of(logits[i], largest);
            atomicAdd(&numbers[bucket], 1u);
            atomicAdd(&weights[bucket], u32(weight * 524288.0));
        }
    }
    workgroupBarrier();
    sum = sum_of_lanes(lane, sum);
    if lane == 0u {
        sums[run] = sum;
    }
    tallies[run * N_BUCKETS + lane] = vec2<u32>(atomicLoad(&numbers[lane]), atomicLoad(&weights[lane]));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
#import lib/subgroup_lanes
) {
    if step.n_outputs == 0u {
        return;
    }
    let end = min((group.x + 1u) * RUN, params.n_vocab);
    let biases = (params.n_vocab + 31u) / 32u;
    for (var i = lane; i < sampling.n_biases; i += LANES) {
        let id = limits[biases + 2u * i];
        if id >= group.x * RUN && id < end {
            logits[id] += bitcast<f32>(limits[biases + 2u * i + 1u]);
        }
    }
    storageBarrier();
    if lane < min(sampling.n_recent, 64u) {
        let id = sampling.recent[lane];
        var first = id >= group.x * RUN && id < end;
        for (var i = 0u; i < lane; i++) {
            first = first && sampling.recent[i] != id;
        }
        if first {
            let logit = logits[id];
            logits[id] = logit * select(sampling.repetition, sampling.inverse_repetition, logit > 0.0);
        }
    }
    storageBarrier();
    for (var i = lane; i < sampling.n_seen; i += LANES) {
        let seen = sampling.seen[i];
        if seen.x >= group.x * RUN && seen.x < end {
            logits[seen.x] -= sampling.presence + sampling.frequency * f32(seen.y);
        }
    }
    storageBarrier();
    if sampling.limited != 0u {
        for (var i = group.x * RUN + lane; i < end; i += LANES) {
            if ((limits[i / 32u] >> (i % 32u)) & 1u) == 0u {
                logits[i] = LOWEST;
            }
        }
    }
    // Each lane goes over the logits that it left out.
    largest_of_run(lane, group.x, subgroup_lanes);
    if sampling.mode == CANDIDATES {
        tally(lane, group.x);
    }
}
