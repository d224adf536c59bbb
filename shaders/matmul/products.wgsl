// Products of up to three weight matrices of one format with the same few rows of activations (decode), which are
// normalised on the way where NORMED: queries, keys and values.
// Grid: (blocks of the matrices' rows, one matrix after the other, folded into x and z; X_ROWS activation rows each in y).
#import lib/step
#import lib/weights

struct Params {
    n_cols: u32,
    row_blocks: u32,
    outputs: u32, // 1: one row per wanted output, 0: one per token
    eps: f32,     // of the norm
    scale: f32,   // factor on products and biases
    n_rows0: u32, // rows of each matrix; 0: there is none
    n_rows1: u32,
    n_rows2: u32,
    block0: u32,   // where each begins in `weights`
    block1: u32,
    block2: u32,
    bias0: u32,   // where the bias of each begins in `bias`; 0xffffffff: there is none
    bias1: u32,
    bias2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<x_t>;          // [rows, n_cols]
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>; // [n_cols]
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> out0: array<f32>; // [rows, n_rows0]
@group(0) @binding(7) var<storage, read_write> out1: array<f32>; // [rows, n_rows1]
@group(0) @binding(8) var<storage, read_write> out2: array<f32>; // [rows, n_rows2]

#import format
#import matmul/load_x

// The matrix of this workgroup: where it begins, and its rows.
var<private> first_block: u32;
var<private> n_rows: u32;

fn row_block(row: u32) -> u32 {
    return first_block + min(row, n_rows - 1u) * params.row_blocks;
}

#import matmul/norm
#import matmul/row_sums

fn blocks(rows: u32) -> u32 {
    return (rows + GROUP_ROWS - 1u) / GROUP_ROWS;
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
#import lib/subgroup_lanes
) {
    let row = group.y * X_ROWS;
    let block = group.z * n_groups.x + group.x;
    let end0 = blocks(params.n_rows0);
    let end1 = end0 + blocks(params.n_rows1);
    if block >= end1 + blocks(params.n_rows2) || row >= value_rows(params.outputs) {
        return;
    }
    var first = block * GROUP_ROWS;
    var bias_at = params.bias0;
    first_block = params.block0;
    n_rows = params.n_rows0;
    if block >= end1 {
        first -= end1 * GROUP_ROWS;
        bias_at = params.bias2;
        first_block = params.block2;
        n_rows = params.n_rows2;
    } else if block >= end0 {
        first -= end0 * GROUP_ROWS;
        bias_at = params.bias1;
        first_block = params.block1;
        n_rows = params.n_rows1;
    }
    sum_rows(lane, row, first, subgroup_lanes);
    let col = first + lane;
    if lane >= GROUP_ROWS || col >= n_rows {
        return;
    }
    var sums = row_sum(lane, subgroup_lanes) * norm_factor();
    if bias_at != 0xffffffffu {
        sums += bias[bias_at + col];
    }
    sums *= params.scale;
    for (var i = 0u; i < X_ROWS && row + i < value_rows(params.outputs); i++) {
        let at = (row + i) * n_rows + col;
        let sum = of_row(sums, i);
        if block >= end1 {
            out2[at] = sum;
        } else if block >= end0 {
            out1[at] = sum;
        } else {
            out0[at] = sum;
        }
    }
}
