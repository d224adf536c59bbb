// What products with chosen experts share: bindings, loads, and the way out. The matrix holds all experts' rows one after
// the other and may be cut into parts anywhere: a part writes the rows that it has. With EXPERTS the pairs of token and
// chosen expert come in tiles of one expert (moe/group_pairs), else one by one.
#import lib/step
#import lib/weights

struct Params {
    n_cols: u32,    // elements of a weight row
    n_rows: u32,    // rows of this part of the weight
    row_blocks: u32, // blocks of a weight row
    first_row: u32, // this part's first row among the rows of all experts
    n_out: u32,     // rows of an expert
    n_experts: u32,
    n_used: u32,    // experts chosen for a token
    shared_x: u32,  // 1: the experts of a token read the same row, 0: each its own
    outputs: u32,   // 1: one row per wanted output, 0: one per token
    has_bias: u32,
    n_tiles: u32,   // tiles of pairs that `groups` has room for
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<x_t>;         // [rows, n_cols] or [rows, n_used, n_cols]
@group(0) @binding(4) var<storage, read> bias: array<f32>;      // [n_experts, n_out]
#if EXPERTS
@group(0) @binding(5) var<storage, read> groups: array<u32>;    // [n_tiles] experts, [n_tiles, tile] pairs
#else
@group(0) @binding(5) var<storage, read> selection: array<f32>; // [rows, 2 * n_used]
#endif
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [rows, n_used, n_out]

#import format
#import matmul/load_x

// This workgroup's expert's first row among those of all.
var<private> expert_row: u32;

// Whether this part has none of `n` rows.
fn is_elsewhere(row: u32, n: u32) -> bool {
    return row >= params.first_row + params.n_rows || row + n <= params.first_row;
}

// Rows of other parts repeat this one's nearest and are not stored.
fn row_block(row: u32) -> u32 {
    let end = params.first_row + params.n_rows;
    return (clamp(expert_row + row, params.first_row, end - 1u) - params.first_row) * params.row_blocks;
}

// The activation row of a pair.
fn x_row(pair: u32) -> u32 {
    return select(pair, pair / params.n_used, params.shared_x != 0u);
}

// Adds the bias to the product of a pair with its expert's row `row`, and stores it.
fn store(pair: u32, row: u32, product: f32) {
    let at = expert_row + row;
    if row >= params.n_out || is_elsewhere(at, 1u) {
        return;
    }
    var sum = product;
    if params.has_bias != 0u {
        sum += bias[at];
    }
    out[pair * params.n_out + row] = sum;
}
