// q_codes of a float format whose rows do not end with a chunk, from its `element(row_byte, col)`.
fn four_elements(row_byte: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(
        element(row_byte, col),
        element(row_byte, col + 1u),
        element(row_byte, col + 2u),
        element(row_byte, col + 3u),
    );
}

fn q_codes(row_byte: u32, chunk: u32, part: u32) -> Codes {
    let col = chunk * 32u + part * 8u;
    return Codes(four_elements(row_byte, col), four_elements(row_byte, col + 4u));
}
