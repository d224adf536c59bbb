// q_codes of a float format whose rows do not end with a chunk, from its `element(row_block, col)`.
fn four_elements(row_block: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(
        element(row_block, col),
        element(row_block, col + 1u),
        element(row_block, col + 2u),
        element(row_block, col + 3u),
    );
}

fn q_codes(row_block: u32, chunk: u32, part: u32) -> Codes {
    let col = chunk * 32u + part * 8u;
    return Codes(four_elements(row_block, col), four_elements(row_block, col + 4u));
}
