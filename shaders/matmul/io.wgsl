// What the mat-vec and the mat-mul kernel share: bindings, loads of activations, and the way out.
#import lib/step
#import lib/weights

struct Params {
    n_cols: u32,     // elements of a weight row
    n_rows: u32,     // rows of this part of the weight
    row_blocks: u32, // blocks of a weight row
    out_width: u32,  // elements of an output row: all rows of the weight
    out_first: u32,  // output element of this part's first row
    outputs: u32,    // 1: one row per wanted output, 0: one per token
    has_bias: u32,
    addend: u32,     // 0: none, 1: the binding `addend`, 2: `out` itself
    scale: f32,      // factor on product and bias
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<x_t>;         // [rows, n_cols]
@group(0) @binding(4) var<storage, read> bias: array<f32>;         // [out_width]
@group(0) @binding(5) var<storage, read> addend: array<f32>;       // [rows, out_width]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;    // [rows, out_width]

#import format

#import matmul/load_x

// Rows past the end repeat the last one and are not stored.
fn row_block(row: u32) -> u32 {
    return min(row, params.n_rows - 1u) * params.row_blocks;
}

// Adds bias and residual to the product of activation row `row` with weight row `weight_row`, and stores it.
fn store(row: u32, weight_row: u32, product: f32) {
    if weight_row >= params.n_rows {
        return;
    }
    let col = params.out_first + weight_row;
    let at = row * params.out_width + col;
    var sum = product;
    if params.has_bias != 0u {
        sum += bias[col];
    }
    sum *= params.scale;
    if params.addend == 1u {
        sum += addend[at];
    } else if params.addend == 2u {
        sum += out[at];
    }
    out[at] = sum;
}
