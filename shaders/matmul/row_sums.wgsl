// The sums of a mat-vec workgroup: K_LANES lanes walk along a weight row in chunks of 32, each for ROWS rows at once so
// that the activations are loaded once for all of them; partial sums meet in workgroup memory. With SUBGROUPS lanes
// that follow each other add theirs up before that, as many as are in a subgroup. With X_ROWS, which are four, a weight is
// loaded once for so many rows of activations.
// Needs `load_x8` and `row_block(row) -> u32`, the block at which a row begins; rows past the end get that of another.
const GROUP: u32 = K_LANES * LANES_N;
const GROUP_ROWS: u32 = LANES_N * ROWS;

#import lib/subgroups

#if X_ROWS
// Of each of the activation rows.
alias sum_t = vec4<f32>;

// Eight elements of each.
struct Eights {
    lo: mat4x4<f32>,
    hi: mat4x4<f32>,
}

fn of_row(sums: sum_t, index: u32) -> f32 {
    return sums[index];
}

// Rows past the step's hold anything; what they lead to is not stored.
fn load_eights(row: u32, col: u32) -> Eights {
#if NORMED
    let rows = load_normed_rows(row, col);
#else
    let rows = array<Codes, 4>(load_x8(row, col), load_x8(row + 1u, col), load_x8(row + 2u, col), load_x8(row + 3u, col));
#endif
    return Eights(
        mat4x4<f32>(rows[0].lo, rows[1].lo, rows[2].lo, rows[3].lo),
        mat4x4<f32>(rows[0].hi, rows[1].hi, rows[2].hi, rows[3].hi),
    );
}
#else
const X_ROWS: u32 = 1u;
alias sum_t = f32;

fn of_row(sums: sum_t, index: u32) -> f32 {
    return sums;
}
#endif

var<workgroup> lane_sums: array<sum_t, GROUP * ROWS>;

// Sums weight rows `first..first + GROUP_ROWS` with X_ROWS activation rows from `row` on. Has a barrier: the whole
// workgroup calls it.
fn sum_rows(lane: u32, row: u32, first: u32, subgroup_lanes: u32) {
    let k_lane = lane % K_LANES;
    let lane_first = (lane / K_LANES) * ROWS;
    var first_blocks: array<u32, ROWS>;
    var sums: array<sum_t, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        first_blocks[r] = row_block(first + lane_first + r);
    }
    let n_chunks = (params.n_cols + 31u) / 32u;
    for (var chunk = k_lane; chunk < n_chunks; chunk += K_LANES) {
#if X_ROWS
        // In halves, since registers are few: parts that share words in the formats of 4 bits.
        for (var half = 0u; half < 2u; half++) {
            let x0 = load_eights(row, chunk * 32u + half * 8u);
            let x1 = load_eights(row, chunk * 32u + half * 8u + 16u);
            let total = vec4<f32>(1.0) * (x0.lo + x0.hi + x1.lo + x1.hi);
            for (var r = 0u; r < ROWS; r++) {
                let scale = q_scale(first_blocks[r], chunk);
                let c0 = q_codes(first_blocks[r], chunk, half);
                let c1 = q_codes(first_blocks[r], chunk, half + 2u);
                let front = scale.x * (c0.lo * x0.lo + c0.hi * x0.hi);
                sums[r] += front + scale.y * (c1.lo * x1.lo + c1.hi * x1.hi) + scale.z * total;
            }
        }
#else
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
            let scale = q_scale(first_blocks[r], chunk);
            let c0 = q_codes(first_blocks[r], chunk, 0u);
            let c1 = q_codes(first_blocks[r], chunk, 1u);
            let c2 = q_codes(first_blocks[r], chunk, 2u);
            let c3 = q_codes(first_blocks[r], chunk, 3u);
            let front = c0.lo * x0.lo + c0.hi * x0.hi + c1.lo * x1.lo + c1.hi * x1.hi;
            let back = c2.lo * x2.lo + c2.hi * x2.hi + c3.lo * x3.lo + c3.hi * x3.hi;
            let scaled = scale.x * front + scale.y * back;
            sums[r] += scaled.x + scaled.y + scaled.z + scaled.w + scale.z * total;
        }
#endif
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
fn row_sum(index: u32, subgroup_lanes: u32) -> sum_t {
    var sum = sum_t();
    for (var k = 0u; k < K_LANES / min(K_LANES, subgroup_lanes); k++) {
        sum += lane_sums[index * K_LANES + k];
    }
    return sum;
}
