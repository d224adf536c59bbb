// Eight elements of an activation row. Needs `x: array<x_t>` and `params.n_cols`.
#if WHOLE_CHUNKS
alias x_t = vec4<f32>;

fn load_x8(row: u32, col: u32) -> Codes {
    let first = (row * params.n_cols + col) >> 2u;
    return Codes(x[first], x[first + 1u]);
}
#else
alias x_t = f32;

fn load_x4(row: u32, col: u32) -> vec4<f32> {
    var four = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if col + i < params.n_cols {
            four[i] = x[row * params.n_cols + col + i];
        }
    }
    return four;
}

fn load_x8(row: u32, col: u32) -> Codes {
    return Codes(load_x4(row, col), load_x4(row, col + 4u));
}
#endif
