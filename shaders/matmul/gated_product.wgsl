// out = activation(gate . x) * (up . x) for a few rows of activations (decode), which are normalised on the way where
// NORMED. Grid: (blocks of rows folded into x and z, X_ROWS activation rows each in y). The first half of a workgroup's
// rows are the gate's, the second the same rows of the multiplier.
#import lib/step
#import lib/weights
#import lib/activations

struct Params {
    n_cols: u32,
    row_blocks: u32,
    outputs: u32,
    eps: f32,        // of the norm
    n_rows: u32,     // of each matrix
    gate_block: u32,  // where each begins in `weights`
    up_block: u32,
    gate_bias: u32,  // where its bias begins in `bias`; 0xffffffff: there is none
    up_bias: u32,
    activation: u32, // as lib/activations counts them
    alpha: f32,
    limit: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<x_t>;          // [rows, n_cols]
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>; // [n_cols]
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;  // [rows, n_rows]

#import format
#import matmul/load_x

const HALF: u32 = LANES_N * ROWS / 2u;

// Blocks count rows of both matrices.
fn row_block(row: u32) -> u32 {
    let at = min(row / (2u * HALF) * HALF + row % HALF, params.n_rows - 1u) * params.row_blocks;
    return select(params.gate_block, params.up_block, row % (2u * HALF) >= HALF) + at;
}

#import matmul/norm
#import matmul/row_sums

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
#import lib/subgroup_lanes
) {
    let row = group.y * X_ROWS;
    let block = group.z * n_groups.x + group.x;
    if block * HALF >= params.n_rows || row >= value_rows(params.outputs) {
        return;
    }
    sum_rows(lane, row, block * GROUP_ROWS, subgroup_lanes);
    let col = block * HALF + lane;
    if lane >= HALF || col >= params.n_rows {
        return;
    }
    let factor = norm_factor();
    var gate = row_sum(lane, subgroup_lanes) * factor;
    var up = row_sum(lane + HALF, subgroup_lanes) * factor;
    if params.gate_bias != 0xffffffffu {
        gate += bias[params.gate_bias + col];
    }
    if params.up_bias != 0xffffffffu {
        up += bias[params.up_bias + col];
    }
    for (var i = 0u; i < X_ROWS && row + i < value_rows(params.outputs); i++) {
        let product = gated(params.activation, params.alpha, params.limit, of_row(gate, i), of_row(up, i));
        out[(row + i) * params.n_rows + col] = product;
    }
}
