// Product of the experts that a token chose with its activations.
// Grid: (blocks of an expert's rows folded into x and z, pairs of token and chosen expert in y). The matrix holds all
// experts' rows one after the other and may be cut into parts anywhere: a part writes the rows that it has.
#import lib/step
#import lib/weights

struct Params {
    n_cols: u32,    // elements of a weight row
    n_rows: u32,    // rows of this part of the weight
    row_bytes: u32, // bytes of a weight row
    first_row: u32, // this part's first row among the rows of all experts
    n_out: u32,     // rows of an expert
    n_experts: u32,
    n_used: u32,    // experts chosen for a token
    shared_x: u32,  // 1: the experts of a token read the same row, 0: each its own
    outputs: u32,   // 1: one row per wanted output, 0: one per token
    has_bias: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<x_t>;         // [rows, n_cols] or [rows, n_used, n_cols]
@group(0) @binding(4) var<storage, read> bias: array<f32>;      // [n_experts, n_out]
@group(0) @binding(5) var<storage, read> selection: array<f32>; // [rows, 2 * n_used]
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [rows, n_used, n_out]

#import format
#import matmul/load_x
#import matmul/row_sums

// Rows of other parts repeat this one's nearest and are not stored.
fn row_byte(row: u32) -> u32 {
    let stored = clamp(row, params.first_row, params.first_row + params.n_rows - 1u) - params.first_row;
    return stored * params.row_bytes;
}

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
    let expert_row = min(chosen, params.n_experts - 1u) * params.n_out;
    let end = params.first_row + params.n_rows;
    if expert_row + first >= end || expert_row + first + GROUP_ROWS <= params.first_row {
        return;
    }
    sum_rows(lane, select(pair, row, params.shared_x != 0u), expert_row + first, subgroup_lanes);
    let at = expert_row + first + lane;
    if lane < GROUP_ROWS && first + lane < params.n_out && at >= params.first_row && at < end {
        var sum = row_sum(lane, subgroup_lanes);
        if params.has_bias != 0u {
            sum += bias[at];
        }
        out[pair * params.n_out + first + lane] = sum;
    }
}
