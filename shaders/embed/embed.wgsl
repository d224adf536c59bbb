// Rows of a table, decoded: out[t] = table[token[t]] * scale, or table[position of t] * scale (+ addend[t]).
// Grid: (eights of columns / 64, tokens). Each lane decodes eight columns. Where the table is cut into parts, each
// part's dispatch writes the tokens whose rows it holds.
#import lib/step
#import lib/weights

struct Params {
    n_cols: u32,
    n_rows: u32,    // rows of this part of the table
    row_blocks: u32,
    first_row: u32, // token id of this part's first row
    scale: f32,
    positions: u32, // 1: rows by position, 0: by token id
    addend: u32,    // 0: none, 1: the binding `addend`, 2: `out` itself
    table_rows: u32, // rows of the whole table: tokens beyond get the first
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> addend: array<f32>;    // [n_tokens, n_cols]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [n_tokens, n_cols]

#import format

fn store(at: u32, value: f32) {
    var sum = value;
    if params.addend == 1u {
        sum += addend[at];
    } else if params.addend == 2u {
        sum += out[at];
    }
    out[at] = sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.y;
    let col = id.x * 8u;
    if token >= step.n_tokens || col >= params.n_cols {
        return;
    }
    // Ids below this part's first row wrap around to above its last.
    var wanted = select(step.tokens[token], step.pos + token, params.positions != 0u);
    if wanted >= params.table_rows {
        wanted = 0u;
    }
    let row = wanted - params.first_row;
    if row >= params.n_rows {
        return;
    }
    let row_block = row * params.row_blocks;
    let chunk = id.x >> 2u;
    let part = id.x & 3u;
    let scales = q_scale(row_block, chunk);
    let scale = select(scales.x, scales.y, part >= 2u);
    let codes = q_codes(row_block, chunk, part);
    let lo = (codes.lo * scale + scales.z) * params.scale;
    let hi = (codes.hi * scale + scales.z) * params.scale;
    let at = token * params.n_cols + col;
    for (var i = 0u; i < 4u; i++) {
        if col + i < params.n_cols {
            store(at + i, lo[i]);
        }
        if col + i + 4u < params.n_cols {
            store(at + i + 4u, hi[i]);
        }
    }
}
