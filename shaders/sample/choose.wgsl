// The token of the largest logit, from the largest of each run. Grid: (1). 256 lanes.
#import sample/largest

struct Params {
    n_runs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;       // lib/step, word by word
@group(0) @binding(2) var<storage, read> runs: array<vec2<u32>>;        // bits of the value, id
@group(0) @binding(3) var<storage, read_write> chosen: array<vec2<u32>>; // likewise, of each step of the submit

#import sample/advance
#import sample/largest_of_runs

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
#import lib/subgroup_lanes
) {
    largest_of_runs(lane, params.n_runs, subgroup_lanes);
    if lane == 0u {
        advance(lane_values[0], lane_ids[0], lane_ids[0]);
    }
}
