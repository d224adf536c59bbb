// An RMS norm within a product: the weights of the norm multiply the activations as they are loaded, the sum of squares is
// gathered on the way, and the products are divided by the root of its mean at the end.
// Needs `norm: array<vec4<f32>>` and `params` with n_cols and eps. Import before row_sums.

#if NORMED
// Of the lane's part of each row; lanes of equal place along it have equal sums.
var<private> square: sum_t;
var<workgroup> squares: array<sum_t, K_LANES>;

fn square_sum(eight: Codes) -> f32 {
    return dot(eight.lo, eight.lo) + dot(eight.hi, eight.hi);
}

#if X_ROWS
fn load_normed_rows(row: u32, col: u32) -> array<Codes, 4> {
    let a = load_x8(row, col);
    let b = load_x8(row + 1u, col);
    let c = load_x8(row + 2u, col);
    let d = load_x8(row + 3u, col);
    square += vec4<f32>(square_sum(a), square_sum(b), square_sum(c), square_sum(d));
    let lo = norm[col >> 2u];
    let hi = norm[(col >> 2u) + 1u];
    return array<Codes, 4>(
        Codes(a.lo * lo, a.hi * hi),
        Codes(b.lo * lo, b.hi * hi),
        Codes(c.lo * lo, c.hi * hi),
        Codes(d.lo * lo, d.hi * hi),
    );
}
#else
fn load_normed_x8(row: u32, col: u32) -> Codes {
    let eight = load_x8(row, col);
    square += square_sum(eight);
    return Codes(eight.lo * norm[col >> 2u], eight.hi * norm[(col >> 2u) + 1u]);
}
#endif

fn keep_squares(lane: u32) {
    if lane < K_LANES {
        squares[lane] = square;
    }
}

// What the sums are to be multiplied with, after `sum_rows`.
fn norm_factor() -> sum_t {
    var sum = sum_t();
    for (var k = 0u; k < K_LANES; k++) {
        sum += squares[k];
    }
    return 1.0 / sqrt(sum / f32(params.n_cols) + params.eps);
}
#else
fn norm_factor() -> f32 {
    return 1.0;
}
#endif
