// Rotation of a head's elements in pairs. Needs `table` and `params` with n_pairs and neox.

// The two elements of a head that belong to `pair`.
fn elements(pair: u32) -> vec2<u32> {
    if params.neox != 0u && pair < params.n_pairs {
        return vec2<u32>(pair, pair + params.n_pairs);
    }
    return vec2<u32>(2u * pair, 2u * pair + 1u);
}

// The pair that element `i` of a head belongs to.
fn pair_of(i: u32) -> u32 {
    if params.neox != 0u && i < 2u * params.n_pairs {
        return i % params.n_pairs;
    }
    return i / 2u;
}

fn rotated(pair: u32, position: u32, values: vec2<f32>) -> vec2<f32> {
    if pair >= params.n_pairs {
        return values;
    }
    let angle = table[position * params.n_pairs + pair];
    return vec2<f32>(
        values.x * angle.x - values.y * angle.y,
        values.x * angle.y + values.y * angle.x,
    );
}
