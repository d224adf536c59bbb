// Collects candidates: the tokens of the first buckets, as many buckets as top-k or top-p need. Grid: (runs). 256 lanes.
#import lib/step
#import sample/sampling
#import sample/largest

struct Params {
    n_vocab: u32,
    n_runs: u32,
}

struct Candidates {
    n: atomic<u32>,
    enough: u32, // 1: none is missing that may be drawn
    total: f32,  // weight of all tokens
    list: array<vec2<u32>>, // bits of the logit, id
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> runs: array<vec2<u32>>;    // bits of the largest logit, id
@group(0) @binding(4) var<storage, read> logits: array<f32>;        // [n_outputs, n_vocab]
@group(0) @binding(5) var<storage, read> sums: array<f32>;          // [n_runs]
@group(0) @binding(6) var<storage, read> tallies: array<vec2<u32>>; // [n_runs, N_BUCKETS]
@group(0) @binding(7) var<storage, read_write> candidates: Candidates;

#import sample/largest_of_runs
#import sample/bucket

var<workgroup> n_buckets: u32;

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
    var number = 0u;
    var weight = 0.0;
    for (var run = 0u; run < params.n_runs; run++) {
        let of_run = bitcast<f32>(runs[run].x);
        // The lane's bucket of all is an earlier one of the run; what is in the last is never asked for.
        let moved = bucket_of(of_run, largest);
        if lane >= moved {
            let tally = tallies[run * N_BUCKETS + lane - moved];
            number += tally.x;
            weight += f32(tally.y) * run_factor(of_run, largest);
        }
    }
    workgroupBarrier();
    lane_ids[lane] = number;
    lane_values[lane] = weight;
    workgroupBarrier();
    if lane == 0u {
        var total = 0.0;
        for (var run = 0u; run < params.n_runs; run++) {
            total += sums[run] * run_factor(bitcast<f32>(runs[run].x), largest);
        }
        let wanted = sampling.top_p * total * 524294.0;
        number = 0u;
        weight = 0.0;
        var bucket = 0u;
        var enough = false;
        while bucket < N_BUCKETS - 1u && !enough {
            number += lane_ids[bucket];
            weight += lane_values[bucket];
            if number > MAX_CANDIDATES {
                break;
            }
            bucket++;
            enough = select(weight >= wanted, number >= sampling.top_k, sampling.top_k != 0u)
                || (bucket > bucket_of(largest + sampling.min_p, largest) + 1u && (sampling.top_k == 0u || sampling.top_p >= 1.0));
        }
        n_buckets = bucket;
        if group.x == 0u {
            candidates.enough = u32(enough || bucket == N_BUCKETS - 1u);
            candidates.total = total;
        }
    }
    workgroupBarrier();
    let end = min((group.x + 1u) * RUN, params.n_vocab);
    for (var i = group.x * RUN + lane; i < end; i += LANES) {
        let below = logits[i] - largest;
        if below >= sampling.lowest && bucket_of(logits[i], largest) < n_buckets {
            let at = atomicAdd(&candidates.n, 1u);
            if at < MAX_CANDIDATES {
                candidates.list[at] = vec2<u32>(bitcast<u32>(logits[i]), i);
            }
        }
    }
}
