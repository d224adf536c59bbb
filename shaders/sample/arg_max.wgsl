// The largest logit of each run of 4096, of the first row.
// Grid: (runs). 256 lanes a run.
#import lib/step
#import sample/largest

struct Params {
    n_vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [n_outputs, n_vocab]
@group(0) @binding(3) var<storage, read_write> runs: array<vec2<u32>>; // bits of the value, id

const RUN: u32 = 4096u;

#import sample/largest_of_run

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
#import lib/subgroup_lanes
) {
    if step.n_outputs == 0u {
        return;
    }
    largest_of_run(lane, group.x, subgroup_lanes);
}
