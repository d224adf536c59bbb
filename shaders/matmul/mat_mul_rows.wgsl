// What matmul/mat_mul computes, without workgroup memory, for adapters of software: there a lane is part of a vector, and
// a load, a barrier or an element of an array costs as much as many products. So a lane takes 16 weight rows and eight
// activation rows, whose loads serve all of them. With SUBGROUPS, which are the whole workgroup, a lane loads one
// activation row and has the others from their lanes.
// Grid: (blocks of 128 weight rows folded into x and z, eights of activation rows in y). Rows of whole chunks.
#import matmul/io

const LANES: u32 = 8u;
const ROWS: u32 = 16u;

// Four elements of eight activation rows. Rows past the step's hold anything; what they lead to is not stored.
struct Eight {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
}

#if SUBGROUPS
// A chunk is taken at once.
const TIMES: u32 = 1u;

fn eight_rows(at: u32, stride: u32, lane: u32) -> Eight {
    let own = x[at + lane * stride];
    return Eight(
        mat4x4<f32>(
            subgroupBroadcast(own, 0u),
            subgroupBroadcast(own, 1u),
            subgroupBroadcast(own, 2u),
            subgroupBroadcast(own, 3u),
        ),
        mat4x4<f32>(
            subgroupBroadcast(own, 4u),
            subgroupBroadcast(own, 5u),
            subgroupBroadcast(own, 6u),
            subgroupBroadcast(own, 7u),
        ),
    );
}
#else
// A chunk is taken in halves, as more loads take long to compile: parts 0 and 2, which share words in the formats of
// 4 bits, then 1 and 3.
const TIMES: u32 = 2u;

fn four_rows(at: u32, stride: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x[at], x[at + stride], x[at + 2u * stride], x[at + 3u * stride]);
}

fn eight_rows(at: u32, stride: u32, lane: u32) -> Eight {
    return Eight(four_rows(at, stride), four_rows(at + 4u * stride, stride));
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
    let n_rows = value_rows(params.outputs);
    let first_x = group.y * 8u;
    let block = (group.z * n_groups.x + group.x) * LANES * ROWS;
    if block >= params.n_rows || first_x >= n_rows {
        return;
    }
    // Lanes take neighbouring rows, so that the last block is done early.
    let lane_rows = min(ROWS, (params.n_rows - block + LANES - 1u) / LANES);
    // Four activation rows each: a weight row's first, then its second.
    var sums: array<vec4<f32>, 2u * ROWS>;
    let stride = params.n_cols >> 2u;
    for (var chunk = 0u; chunk < params.n_cols / 32u; chunk++) {
        for (var half = 0u; half < TIMES; half++) {
            let at = first_x * stride + chunk * 8u + half * 2u;
            let x0 = eight_rows(at, stride, lane);
            let x1 = eight_rows(at + 1u, stride, lane);
            let x2 = eight_rows(at + 4u, stride, lane);
            let x3 = eight_rows(at + 5u, stride, lane);
#if SUBGROUPS
            let x4 = eight_rows(at + 2u, stride, lane);
            let x5 = eight_rows(at + 3u, stride, lane);
            let x6 = eight_rows(at + 6u, stride, lane);
            let x7 = eight_rows(at + 7u, stride, lane);
#endif
            for (var r = 0u; r < lane_rows; r++) {
                let row_byte = min(block + r * LANES + lane, params.n_rows - 1u) * params.row_bytes;
                let scales = q_scale(row_byte, chunk);
                let near = q_codes(row_byte, chunk, half);
                let far = q_codes(row_byte, chunk, half + 2u);
                let w0 = near.lo * scales.x + scales.z;
                let w1 = near.hi * scales.x + scales.z;
                let w2 = far.lo * scales.y + scales.z;
                let w3 = far.hi * scales.y + scales.z;
                var low = w0 * x0.low + w1 * x1.low + w2 * x2.low + w3 * x3.low;
                var high = w0 * x0.high + w1 * x1.high + w2 * x2.high + w3 * x3.high;
#if SUBGROUPS
                let near1 = q_codes(row_byte, chunk, 1u);
                let far1 = q_codes(row_byte, chunk, 3u);
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
    for (var r = 0u; r < lane_rows; r++) {
        let weight_row = block + r * LANES + lane;
        for (var i = 0u; i < 8u; i++) {
            if first_x + i < n_rows && weight_row < params.n_rows {
                store(first_x + i, weight_row, sums[2u * r + i / 4u][i % 4u]);
            }
        }
    }
}
