// The sums of a mat-vec workgroup: K_LANES lanes walk along a weight row in chunks of 32, each for ROWS rows at once so
// that the activations are loaded once for all of them; partial sums meet in workgroup memory. With SUBGROUPS lanes
// that follow each other add theirs up before that, as many as are in a subgroup.
// Needs `load_x8` and `row_byte(row) -> u32`, the byte at which a row begins; rows past the end get that of another.
const GROUP: u32 = K_LANES * LANES_N;
const GROUP_ROWS: u32 = LANES_N * ROWS;

#import lib/subgroups

var<workgroup> lane_sums: array<f32, GROUP * ROWS>;

// Sums weight rows `first..first + GROUP_ROWS` with activation row `row`. Has a barrier: the whole workgroup calls it.
fn sum_rows(lane: u32, row: u32, first: u32, subgroup_lanes: u32) {
    let k_lane = lane % K_LANES;
    let lane_first = (lane / K_LANES) * ROWS;
    var row_bytes: array<u32, ROWS>;
    var sums: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        row_bytes[r] = row_byte(first + lane_first + r);
    }
    let n_chunks = (params.n_cols + 31u) / 32u;
    for (var chunk = k_lane; chunk < n_chunks; chunk += K_LANES) {
#if NORMED
        let x0 = load_normed_x8(row, chunk * 32u);
        let x1 = load_normed_x8(row, chunk * 32u + 8u);
        let x2 = load_normed_x8(row, chunk * 32u + 16u);
        let x3 = load_normed_x8(row, chunk * 32u + 24u);
#else
        let x0 = load_x8(row, chunk * 32u);
        let x1 = load_x8(row, chunk * 32u + 8u);
        let x2 = load_x8(row, chunk * 32u + 16u);
        let x3 = load_x8(row, chunk * 32u + 24u);
#endif
        let total4 = x0.lo + x0.hi + x1.lo + x1.hi + x2.lo + x2.hi + x3.lo + x3.hi;
        let total = total4.x + total4.y + total4.z + total4.w;
        for (var r = 0u; r < ROWS; r++) {
            let scale = q_scale(row_bytes[r], chunk);
            let c0 = q_codes(row_bytes[r], chunk, 0u);
            let c1 = q_codes(row_bytes[r], chunk, 1u);
            let c2 = q_codes(row_bytes[r], chunk, 2u);
            let c3 = q_codes(row_bytes[r], chunk, 3u);
            let front = c0.lo * x0.lo + c0.hi * x0.hi + c1.lo * x1.lo + c1.hi * x1.hi;
            let back = c2.lo * x2.lo + c2.hi * x2.hi + c3.lo * x3.lo + c3.hi * x3.hi;
            let scaled = scale.x * front + scale.y * back;
            sums[r] += scaled.x + scaled.y + scaled.z + scaled.w + scale.z * total;
        }
    }
    let share = min(K_LANES, subgroup_lanes);
#if SUBGROUPS
    for (var r = 0u; r < ROWS; r++) {
        for (var mask = 1u; mask < share; mask *= 2u) {
            sums[r] += subgroupShuffleXor(sums[r], mask);
        }
    }
#endif
    if k_lane % share == 0u {
        for (var r = 0u; r < ROWS; r++) {
            lane_sums[(lane_first + r) * K_LANES + k_lane / share] = sums[r];
        }
    }
#if NORMED
    keep_squares(lane);
#endif
    workgroupBarrier();
}

// The sum of row `first + index`, after `sum_rows`.
fn row_sum(index: u32, subgroup_lanes: u32) -> f32 {
    var sum = 0.0;
    for (var k = 0u; k < K_LANES / min(K_LANES, subgroup_lanes); k++) {
        sum += lane_sums[index * K_LANES + k];
    }
    return sum;
}
