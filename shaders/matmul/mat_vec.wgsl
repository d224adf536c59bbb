// Product of a weight matrix with a few rows of activations (decode).
// Grid: (blocks of weight rows folded into x and z, X_ROWS activation rows each in y). A workgroup computes LANES_N * ROWS rows.
#import matmul/io
#import matmul/row_sums

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
#import lib/subgroup_lanes
) {
    let row = group.y * X_ROWS;
    let n_rows = value_rows(params.outputs);
    let first = (group.z * n_groups.x + group.x) * GROUP_ROWS;
    if first >= params.n_rows || row >= n_rows {
        return;
    }
    sum_rows(lane, row, first, subgroup_lanes);
    if lane < GROUP_ROWS {
        let sums = row_sum(lane, subgroup_lanes);
        for (var i = 0u; i < X_ROWS && row + i < n_rows; i++) {
            store(row + i, first + lane, of_row(sums, i));
        }
    }
}
