// Which rows a workgroup of a mat-mul takes, TILE_X of activations by TILE_W of weights: those of the step, or with EXPERTS
// those of pairs of token and chosen expert that chose the same one.
const NONE: u32 = 0xffffffffu;

#if EXPERTS
#import matmul/expert_io

// Whether the workgroup of tile `tile`, from weight row `first` on, has nothing to do.
fn is_idle(tile: u32, first: u32) -> bool {
    let expert = groups[tile];
    expert_row = expert * params.n_out;
    return expert == NONE || first >= params.n_out || is_elsewhere(expert * params.n_out + first, TILE_W);
}

fn weight_rows() -> u32 {
    return params.n_out;
}

// The row of `out` that slot `slot` of the tiles stands for; NONE for none.
fn out_row(slot: u32) -> u32 {
    return groups[params.n_tiles + slot];
}
#else
#import matmul/io

fn weight_rows() -> u32 {
    return params.n_rows;
}

fn is_idle(tile: u32, first: u32) -> bool {
    return first >= params.n_rows || tile * TILE_X >= value_rows(params.outputs);
}

fn out_row(slot: u32) -> u32 {
    return select(NONE, slot, slot < value_rows(params.outputs));
}

fn x_row(row: u32) -> u32 {
    return row;
}
#endif
