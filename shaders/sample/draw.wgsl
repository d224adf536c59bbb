// Draws the next token, keeps it for the CPU and puts it into the step buffer, as sample/choose does; and readies the next
// draw. Where the token depends on how sums are rounded, or candidates are missing, it says so, and the CPU draws it.
// Grid: (1). 256 lanes.
#import sample/sampling
#import sample/largest

struct Params {
    n_vocab: u32,
    n_runs: u32,
}

struct Candidates {
    n: u32,
    enough: u32,
    total: f32,
    list: array<vec2<u32>>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;        // lib/step, word by word
@group(0) @binding(2) var<storage, read_write> sampling: Sampling;
@group(0) @binding(3) var<storage, read> runs: array<vec2<u32>>;         // bits of the largest logit, id
@group(0) @binding(4) var<storage, read> logits: array<f32>;             // [n_outputs, n_vocab]
@group(0) @binding(5) var<storage, read> sums: array<f32>;               // [n_runs]
@group(0) @binding(6) var<storage, read_write> candidates: Candidates;
@group(0) @binding(7) var<storage, read_write> chosen: array<vec2<u32>>; // bits of the largest logit, id

#import sample/largest_of_runs
#import sample/advance

// Part of the sum of weights by which sums taken in another order, with another exp, may differ.
const ROUNDING: f32 = 1.9073486e-6;

var<workgroup> order: array<vec2<u32>, MAX_CANDIDATES>; // bits of the logit, id
var<workgroup> reached: array<f32, MAX_CANDIDATES>;     // weights, summed up to each
var<workgroup> mode: u32;
var<workgroup> n_candidates: u32;
var<workgroup> run: u32;
var<workgroup> targets: vec2<f32>; // what is to be reached, at least and at most
var<workgroup> token: u32;         // the token drawn; NOBODY: it is not certain
var<workgroup> is_seen: u32;

fn weight(below: f32, lowest: f32) -> f32 {
    return select(0.0, exp(max(below, lowest) * sampling.scale), below >= lowest);
}

// A random number from 0 to 1, that of generate::rng.
fn unit() -> f32 {
    var v = vec4<u32>(sampling.seed, sampling.index, 0x4c616d70u) * 1664525u + 1013904223u;
    for (var round = 0u; round < 2u; round++) {
        v.x += v.y * v.w;
        v.y += v.z * v.x;
        v.z += v.x * v.y;
        v.w += v.y * v.z;
        v ^= (v >> vec4<u32>(16u)) * (1u - round);
    }
    return f32(v.x >> 8u) * 5.9604644775390625e-8;
}

// The first of `n` that is above, or as large as, `target`; `n` where there is none.
fn first_at(n: u32, target_sum: f32, above: bool) -> u32 {
    var low = 0u;
    var high = n;
    while low < high {
        let middle = (low + high) / 2u;
        if reached[middle] > target_sum || (!above && reached[middle] == target_sum) {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    return low;
}

// The run of logits that the token is in, by one lane.
fn find_run() {
    var total = 0.0;
    for (var i = 0u; i < params.n_runs; i++) {
        total += sums[i];
    }
    let low = (unit() - ROUNDING) * total;
    let high = low + 2.0 * ROUNDING * total;
    var sum = 0.0;
    run = 0u;
    // Rounding may leave a crumb: it belongs to the last run.
    while run < params.n_runs - 1u && sum + sums[run] <= high {
        sum += sums[run];
        run++;
    }
    targets = vec2<f32>(low, high) - sum;
}

// The token of a run in which `targets` lie.
fn find_in_run(lane: u32, largest: f32) {
    const EACH: u32 = RUN / LANES;
    let first = run * RUN + lane * EACH;
    let lowest = max(sampling.lowest, sampling.min_p);
    var sum = 0.0;
    for (var i = first; i < min(first + EACH, params.n_vocab); i++) {
        sum += weight(logits[i] - largest, lowest);
    }
    reached[lane] = sum;
    workgroupBarrier();
    if lane != 0u {
        return;
    }
    sum = 0.0;
    var part = 0u;
    while part < LANES - 1u && sum + reached[part] <= targets.y {
        sum += reached[part];
        part++;
    }
    for (var i = run * RUN + part * EACH; i < min(run * RUN + (part + 1u) * EACH, params.n_vocab); i++) {
        let before = sum;
        sum += weight(logits[i] - largest, lowest);
        if sum > targets.y {
            token = select(NOBODY, i, before <= targets.x || (before == 0.0 && run == 0u));
            return;
        }
    }
}

fn comes_first(a: vec2<u32>, b: vec2<u32>) -> bool {
    return beats(bitcast<f32>(a.x), a.y, bitcast<f32>(b.x), b.y);
}

// Puts the candidates in order, the most probable first: bitonic, of a power of two of them.
fn sort(lane: u32, n: u32) {
    var size = 1u;
    while size < n {
        size *= 2u;
    }
    for (var i = lane; i < size; i += LANES) {
        if i < n {
            order[i] = candidates.list[i];
        } else {
            order[i] = vec2<u32>(bitcast<u32>(LOWEST), NOBODY);
        }
    }
    for (var block = 2u; block <= size; block *= 2u) {
        for (var distance = block / 2u; distance > 0u; distance /= 2u) {
            workgroupBarrier();
            for (var pair = lane; pair < size / 2u; pair += LANES) {
                let i = pair / distance * 2u * distance + pair % distance;
                let a = order[i];
                let b = order[i + distance];
                if comes_first(b, a) == ((i & block) == 0u) {
                    order[i] = b;
                    order[i + distance] = a;
                }
            }
        }
    }
    workgroupBarrier();
}

// Sums of the weights of the `n` candidates up to each.
fn sum_up(lane: u32, n: u32, largest: f32) {
    const EACH: u32 = MAX_CANDIDATES / LANES;
    var sum = 0.0;
    for (var i = lane * EACH; i < min((lane + 1u) * EACH, n); i++) {
        sum += weight(bitcast<f32>(order[i].x) - largest, sampling.lowest);
        reached[i] = sum;
    }
    lane_values[lane] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < lane && i * EACH < n; i++) {
        sum += lane_values[i];
    }
    for (var i = lane * EACH; i < min((lane + 1u) * EACH, n); i++) {
        reached[i] += sum;
    }
    workgroupBarrier();
}

// Draws one of the candidates that top-k, top-p and min-p leave, by one lane.
fn draw_candidate(n: u32, largest: f32) {
    var kept = n;
    if sampling.top_k != 0u {
        kept = min(kept, sampling.top_k);
    }
    var total = reached[kept - 1u];
    if sampling.top_k == 0u {
        total = candidates.total;
    }
    let rounding = total * ROUNDING;
    // As few and as many as the candidates may be that reach top_p.
    var few = kept;
    var many = kept;
    if sampling.top_p < 1.0 {
        few = min(kept, first_at(kept, total * sampling.top_p - rounding, false) + 1u);
        many = min(kept, first_at(kept, total * sampling.top_p + rounding, false) + 1u);
    }
    var likely = select(0u, many, sampling.min_p <= sampling.lowest);
    while likely < many && bitcast<f32>(order[likely].x) - largest >= sampling.min_p {
        likely++;
    }
    few = max(min(few, likely), 1u);
    many = max(likely, 1u);
    let at = unit();
    let low = min(first_at(few, at * reached[few - 1u] - rounding, true), few - 1u);
    let high = min(first_at(many, at * reached[many - 1u] + rounding, true), many - 1u);
    if low == high {
        token = order[low].y;
    }
}

// Takes note of token `id`, for penalties on the next ones.
fn remember(lane: u32, id: u32) {
    if sampling.counts != 0u {
        for (var i = lane; i < sampling.n_seen; i += LANES) {
            if sampling.seen[i].x == id {
                sampling.seen[i].y += 1u;
                is_seen = 1u;
            }
        }
    }
    workgroupBarrier();
    if lane != 0u {
        return;
    }
    if sampling.counts != 0u && is_seen == 0u && sampling.n_seen < arrayLength(&sampling.seen) {
        sampling.seen[sampling.n_seen] = vec2<u32>(id, 1u);
        sampling.n_seen += 1u;
    }
    sampling.recent[sampling.n_recent % 64u] = id;
    sampling.n_recent += 1u;
    sampling.index += 1u;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
#import lib/subgroup_lanes
) {
    largest_of_runs(lane, params.n_runs, subgroup_lanes);
    let largest = lane_values[0];
    let best = lane_ids[0];
    if lane == 0u {
        mode = sampling.mode;
        token = select(NOBODY, best, sampling.mode == BEST);
        n_candidates = select(0u, candidates.n, candidates.n <= MAX_CANDIDATES && candidates.enough != 0u);
        candidates.n = 0u;
        if sampling.mode == PLAIN {
            find_run();
        }
    }
    let how = workgroupUniformLoad(&mode);
    if how == PLAIN {
        find_in_run(lane, largest);
    }
    let n = workgroupUniformLoad(&n_candidates);
    if how == CANDIDATES && n > 0u {
        sort(lane, n);
        sum_up(lane, n, largest);
        if lane == 0u {
            draw_candidate(n, largest);
        }
    }
    // Where no logit is a number, those of tokens that may not be drawn are the largest.
    let id = select(workgroupUniformLoad(&token), NOBODY, best == NOBODY);
    // Whatever follows an uncertain token is thrown away.
    remember(lane, select(id, best, id == NOBODY));
    if lane == 0u {
        advance(largest, id, best);
    }
}
