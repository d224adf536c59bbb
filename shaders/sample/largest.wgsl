// The largest of a workgroup's values and its id, the lowest id on ties.
#import lib/subgroups

const LANES: u32 = 256u;
const NOBODY: u32 = 0xffffffffu;
const LOWEST: f32 = -3.4028234e38;

var<workgroup> lane_values: array<f32, LANES>;
var<workgroup> lane_ids: array<u32, LANES>;

fn beats(value: f32, id: u32, other: f32, other_id: u32) -> bool {
    return value > other || (value == other && id < other_id);
}

// Leaves the winner at 0. Has barriers: the whole workgroup calls it.
fn find_largest(lane: u32, value: f32, id: u32, subgroup_lanes: u32) {
#if SUBGROUPS
    let best = subgroupMax(value);
    let best_id = subgroupMin(select(NOBODY, id, value == best));
#else
    let best = value;
    let best_id = id;
#endif
    let place = lane / subgroup_lanes;
    if lane % subgroup_lanes == 0u {
        lane_values[place] = best;
        lane_ids[place] = best_id;
    }
    for (var half = LANES / subgroup_lanes / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let other = lane + half;
            if beats(lane_values[other], lane_ids[other], lane_values[lane], lane_ids[lane]) {
                lane_values[lane] = lane_values[other];
                lane_ids[lane] = lane_ids[other];
            }
        }
    }
}
