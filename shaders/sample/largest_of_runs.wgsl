// The largest of all runs' largest. Needs `runs`; import after sample/largest.

// Leaves the largest logit at lane_values[0]. The whole workgroup calls it.
fn largest_of_runs(lane: u32, n_runs: u32, subgroup_lanes: u32) {
    var value = LOWEST;
    var id = NOBODY;
    for (var i = lane; i < n_runs; i += LANES) {
        let run = runs[i];
        if beats(bitcast<f32>(run.x), run.y, value, id) {
            value = bitcast<f32>(run.x);
            id = run.y;
        }
    }
    find_largest(lane, value, id, subgroup_lanes);
    workgroupBarrier();
}
