// Product of the experts that a token chose with its activations, for few tokens (decode).
// Grid: (blocks of an expert's rows folded into x and z, pairs of token and chosen expert in y).
#import matmul/expert_io
#import matmul/row_sums

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
#import lib/subgroup_lanes
) {
    let pair = group.y;
    let row = pair / params.n_used;
    let first = (group.z * n_groups.x + group.x) * GROUP_ROWS;
    if first >= params.n_out || row >= value_rows(params.outputs) {
        return;
    }
    let chosen = u32(selection[row * 2u * params.n_used + pair % params.n_used]);
    let expert = min(chosen, params.n_experts - 1u) * params.n_out;
    if is_elsewhere(expert + first, GROUP_ROWS) {
        return;
    }
    expert_row = expert;
    sum_rows(lane, x_row(pair), first, subgroup_lanes);
    if lane < GROUP_ROWS {
        store(pair, first + lane, row_sum(lane, subgroup_lanes));
    }
}
