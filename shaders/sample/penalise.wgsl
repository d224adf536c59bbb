// Penalties on the first row of logits. Grid: (1). 256 lanes.
#import lib/step
#import sample/sampling

struct Params {
    n_vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // [n_outputs, n_vocab]

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    if lane < min(sampling.n_recent, 64u) {
        let id = sampling.recent[lane];
        var first = id < params.n_vocab && step.n_outputs != 0u;
        for (var i = 0u; i < lane; i++) {
            first = first && sampling.recent[i] != id;
        }
        if first {
            let logit = logits[id];
            logits[id] = logit * select(sampling.repetition, sampling.inverse_repetition, logit > 0.0);
        }
    }
    storageBarrier();
    for (var i = lane; i < sampling.n_seen; i += 256u) {
        let seen = sampling.seen[i];
        if seen.x < params.n_vocab {
            logits[seen.x] -= sampling.presence + sampling.frequency * f32(seen.y);
        }
    }
}
