// Chooses experts: the indices of the best, best first, and their weights.
// Grid: (1, rows). A lane for each expert, at most 256; a lane's rank is the number of experts better than its own, so
// nothing is sorted.
#import lib/step

struct Params {
    n_experts: u32,
    n_used: u32,
    outputs: u32,
    gating: u32,      // 0: softmax, 1: softmax of the chosen, 2: sigmoid, 3: sparse mixer
    renormalize: u32,
    has_bias: u32,
    scale: f32,
    jitter: f32,      // of the sparse mixer
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;    // [rows, n_experts]
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [n_experts], for the choice only
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, 2 * n_used]

const LANES: u32 = 256u;
const SOFTMAX: u32 = 0u;
const SOFTMAX_OF_CHOSEN: u32 = 1u;
const SIGMOID: u32 = 2u;

var<workgroup> logit: array<f32, LANES>;
var<workgroup> score: array<f32, LANES>;
var<workgroup> ranks: array<u32, LANES>;
var<workgroup> weights: array<f32, LANES>; // of the chosen, by rank

// Expert `a` goes before expert `b`; of equals the first.
fn better(a: u32, b: u32) -> bool {
    return score[a] > score[b] || (score[a] == score[b] && a < b);
}

// Sum of exp(logit - top) over all experts.
fn exp_sum(top: f32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < params.n_experts; i++) {
        sum += exp(max(logit[i] - top, -80.0));
    }
    return sum;
}

// The best that is left, in a softmax over what is left but for the experts too far below it.
fn sparse_mixer(expert: u32) -> f32 {
    let best = logit[expert];
    var sum = 0.0;
    for (var i = 0u; i < params.n_experts; i++) {
        let kept = best - logit[i] <= 2.0 * params.jitter * max(abs(logit[i]), best);
        if ranks[i] >= ranks[expert] && kept {
            sum += exp(max(logit[i] - best, -80.0));
        }
    }
    return 1.0 / sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.y;
    if row >= value_rows(params.outputs) {
        return;
    }
    let live = lane < params.n_experts;
    if live {
        logit[lane] = logits[row * params.n_experts + lane];
    }
    workgroupBarrier();
    var top = logit[0];
    for (var i = 1u; i < params.n_experts; i++) {
        top = max(top, logit[i]);
    }
    // The weight, but for what depends on the others chosen.
    var gate = 0.0;
    if live {
        if params.gating == SIGMOID {
            gate = 1.0 / (1.0 + exp(min(-logit[lane], 80.0)));
        } else {
            gate = exp(max(logit[lane] - top, -80.0));
        }
        if params.gating == SOFTMAX {
            gate /= exp_sum(top);
        }
        // Gates are monotonic: without a bias the logits tell the best, with no ties from rounding.
        score[lane] = logit[lane];
        if params.has_bias != 0u {
            score[lane] = gate + bias[lane];
        }
    }
    workgroupBarrier();
    var rank = 0u;
    if live {
        for (var i = 0u; i < params.n_experts; i++) {
            rank += u32(better(i, lane));
        }
        ranks[lane] = rank;
    }
    workgroupBarrier();
    let chosen = live && rank < params.n_used;
    if chosen {
        if params.gating > SIGMOID {
            gate = sparse_mixer(lane);
        }
        weights[rank] = gate;
    }
    workgroupBarrier();
    if chosen {
        var sum = 1.0;
        if params.renormalize != 0u || params.gating == SOFTMAX_OF_CHOSEN {
            sum = 0.0;
            for (var i = 0u; i < params.n_used; i++) {
                sum += weights[i];
            }
        }
        let at = row * 2u * params.n_used + rank;
        out[at] = f32(lane);
        out[at + params.n_used] = gate / sum * params.scale;
    }
}
