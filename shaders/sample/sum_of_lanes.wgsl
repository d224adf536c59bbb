// Sums over a workgroup; import after sample/largest.

// e to this power is all but nothing.
const LEAST_POWER: f32 = -100.0;

// The sum of all lanes' values, at lane 0. Has barriers: the whole workgroup calls it.
fn sum_of_lanes(lane: u32, value: f32) -> f32 {
    lane_values[lane] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            lane_values[lane] += lane_values[lane + half];
        }
    }
    return lane_values[0];
}
