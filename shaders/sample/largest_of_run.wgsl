// The largest logit of a run of RUN. Needs `logits`, `runs` and `params.n_vocab`; import after sample/largest.

// Leaves its bits and its id in `runs`. Has barriers: the whole workgroup calls it.
fn largest_of_run(lane: u32, run: u32, subgroup_lanes: u32) {
    var value = LOWEST;
    var id = NOBODY;
    let end = min((run + 1u) * RUN, params.n_vocab);
    for (var i = run * RUN + lane; i < end; i += LANES) {
        let logit = logits[i];
        if logit > value {
            value = logit;
            id = i;
        }
    }
    find_largest(lane, value, id, subgroup_lanes);
    if lane == 0u {
        runs[run] = vec2<u32>(bitcast<u32>(lane_values[0]), lane_ids[0]);
    }
}
