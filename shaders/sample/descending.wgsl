// Values of a workgroup from the largest down, ties by their ids; import after sample/largest.

// What was taken last, and the lane's best of what comes behind it.
var<private> last: f32 = -LOWEST;
var<private> last_id: u32 = 0u;
var<private> next: f32 = LOWEST;
var<private> next_id: u32 = NOBODY;

fn offer(value: f32, id: u32) {
    if value > next && (value < last || (value == last && id > last_id)) {
        next = value;
        next_id = id;
    }
}

// Takes the best of all that the lanes offered: `last` and `last_id`. Has barriers: the whole workgroup calls it.
fn take_next(lane: u32, subgroup_lanes: u32) {
    find_largest(lane, next, next_id, subgroup_lanes);
    workgroupBarrier();
    last = lane_values[0];
    last_id = lane_ids[0];
    workgroupBarrier();
    next = LOWEST;
    next_id = NOBODY;
}
