// Product of a weight matrix with a few rows of activations (decode).
// Grid: (blocks of weight rows folded into x and z, activation rows in y). A workgroup computes
// LANES_N * ROWS weight rows: K_LANES lanes walk along a row in chunks of 32, each for ROWS rows at once so that the
// activations are loaded once for all of them; partial sums meet in workgroup memory.
#import matmul/io

const GROUP: u32 = K_LANES * LANES_N;
const GROUP_ROWS: u32 = LANES_N * ROWS;

var<workgroup> lane_sums: array<f32, GROUP * ROWS>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let row = group.y;
    let first = (group.z * n_groups.x + group.x) * GROUP_ROWS;
    if first >= params.n_rows || row >= value_rows(params.outputs) {
        return;
    }
    let k_lane = lane % K_LANES;
    let lane_first = (lane / K_LANES) * ROWS;
    var row_bytes: array<u32, ROWS>;
    var sums: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        row_bytes[r] = min(first + lane_first + r, params.n_rows - 1u) * params.row_bytes;
    }
    let n_chunks = (params.n_cols + 31u) / 32u;
    for (var chunk = k_lane; chunk < n_chunks; chunk += K_LANES) {
        let x0 = load_x8(row, chunk * 32u);
        let x1 = load_x8(row, chunk * 32u + 8u);
        let x2 = load_x8(row, chunk * 32u + 16u);
        let x3 = load_x8(row, chunk * 32u + 24u);
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
    for (var r = 0u; r < ROWS; r++) {
        lane_sums[(lane_first + r) * K_LANES + k_lane] = sums[r];
    }
    workgroupBarrier();
    if lane < GROUP_ROWS && first + lane < params.n_rows {
        var sum = 0.0;
        for (var k = 0u; k < K_LANES; k++) {
            sum += lane_sums[lane * K_LANES + k];
        }
        store(row, first + lane, sum);
    }
}
