// What matmul/mat_mul computes, without workgroup memory, for adapters of software: there a lane is part of a vector, and
// a load, a barrier or an element of an array costs as much as many products. So a lane takes 16 weight rows and eight
// activation rows, whose loads serve all of them. With SUBGROUPS, which are the whole workgroup, a lane loads one
// activation row and has the others from their lanes.
// Grid: (blocks of 128 weight rows folded into x and z, eights of activation rows in y). Rows of whole chunks.
#import matmul/tiles
#import lib/eight_lanes

const LANES: u32 = 8u;
const ROWS: u32 = 16u;
const TILE_X: u32 = 8u;
const TILE_W: u32 = LANES * ROWS;

// Where the activation row of a slot of the tiles begins in `x`. Of a slot without one it is any row's: what it leads to is
// not stored.
fn x_at(slot: u32) -> u32 {
    let row = out_row(slot);
    return x_row(select(row, 0u, row == NONE)) * (params.n_cols >> 2u);
}

#if SUBGROUPS
// A chunk is taken at once.
const TIMES: u32 = 1u;

alias Rows = u32;

// Where the lane's row begins.
fn begin(first: u32, lane: u32) -> Rows {
    return x_at(first + lane);
}

fn eight_rows(rows: Rows, at: u32) -> Eight {
    return of_lanes(x[rows + at]);
}
#else
// A chunk is taken in halves, as more loads take long to compile: parts 0 and 2, which share words in the formats of
// 4 bits, then 1 and 3.
const TIMES: u32 = 2u;

struct Rows {
    low: vec4<u32>,
    high: vec4<u32>,
}

fn begin(first: u32, lane: u32) -> Rows {
    return Rows(
        vec4<u32>(x_at(first), x_at(first + 1u), x_at(first + 2u), x_at(first + 3u)),
        vec4<u32>(x_at(first + 4u), x_at(first + 5u), x_at(first + 6u), x_at(first + 7u)),
    );
}

fn four_rows(rows: vec4<u32>, at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x[rows.x + at], x[rows.y + at], x[rows.z + at], x[rows.w + at]);
}

fn eight_rows(rows: Rows, at: u32) -> Eight {
    return Eight(four_rows(rows.low, at), four_rows(rows.high, at));
}
#endif

@compute @workgroup_size(LANES)
fn main(
#if SUBGROUPS
    @builtin(subgroup_invocation_id) lane: u32,
#else
    @builtin(local_invocation_index) lane: u32,
#endif
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let first_x = group.y * TILE_X;
    let block = (group.z * n_groups.x + group.x) * TILE_W;
    if is_idle(group.y, block) {
        return;
    }
    // Lanes take neighbouring rows, so that the last block is done early.
    let lane_rows = min(ROWS, (weight_rows() - block + LANES - 1u) / LANES);
    // Four activation rows each: a weight row's first, then its second.
    var sums: array<vec4<f32>, 2u * ROWS>;
    let rows = begin(first_x, lane);
    for (var chunk = 0u; chunk < params.n_cols / 32u; chunk++) {
        for (var half = 0u; half < TIMES; half++) {
            let at = chunk * 8u + half * 2u;
            let x0 = eight_rows(rows, at);
            let x1 = eight_rows(rows, at + 1u);
            let x2 = eight_rows(rows, at + 4u);
            let x3 = eight_rows(rows, at + 5u);
#if SUBGROUPS
            let x4 = eight_rows(rows, at + 2u);
            let x5 = eight_rows(rows, at + 3u);
            let x6 = eight_rows(rows, at + 6u);
            let x7 = eight_rows(rows, at + 7u);
#endif
            for (var r = 0u; r < lane_rows; r++) {
                let weight = row_block(block + r * LANES + lane);
                let scales = q_scale(weight, chunk);
                let near = q_codes(weight, chunk, half);
                let far = q_codes(weight, chunk, half + 2u);
                let w0 = near.lo * scales.x + scales.z;
                let w1 = near.hi * scales.x + scales.z;
                let w2 = far.lo * scales.y + scales.z;
                let w3 = far.hi * scales.y + scales.z;
                var low = w0 * x0.low + w1 * x1.low + w2 * x2.low + w3 * x3.low;
                var high = w0 * x0.high + w1 * x1.high + w2 * x2.high + w3 * x3.high;
#if SUBGROUPS
                let near1 = q_codes(weight, chunk, 1u);
                let far1 = q_codes(weight, chunk, 3u);
                let w4 = near1.lo * scales.x + scales.z;
                let w5 = near1.hi * scales.x + scales.z;
                let w6 = far1.lo * scales.y + scales.z;
                let w7 = far1.hi * scales.y + scales.z;
                low += w4 * x4.low + w5 * x5.low + w6 * x6.low + w7 * x7.low;
                high += w4 * x4.high + w5 * x5.high + w6 * x6.high + w7 * x7.high;
#endif
                sums[2u * r] += low;
                sums[2u * r + 1u] += high;
            }
        }
    }
    for (var i = 0u; i < TILE_X; i++) {
        let row = out_row(first_x + i);
        for (var r = 0u; row != NONE && r < lane_rows; r++) {
            store(row, block + r * LANES + lane, sums[2u * r + i / 4u][i % 4u]);
        }
    }
}
