// Tiles of a mat-mul in integers of 8 bits, eight elements a step, of which four are multiplied at a time: the codes of
// weights, which must be such integers, and activations rounded to 127 steps of the largest of the eight.
const STEPS: u32 = PARTS;
const STRIDE: u32 = STEPS + 1u;

// The codes of eight elements in two words; as floats their scale, and the sum of the eight (of activations) or what is
// added to each (of weights).
var<workgroup> x_tile: array<vec4<u32>, TILE_X * STRIDE>;
var<workgroup> w_tile: array<vec4<u32>, TILE_W * STRIDE>;

fn packed(codes: Codes, scale: f32, addend: f32) -> vec4<u32> {
    return vec4<u32>(
        pack4xI8(vec4<i32>(codes.lo)),
        pack4xI8(vec4<i32>(codes.hi)),
        bitcast<u32>(scale),
        bitcast<u32>(addend),
    );
}

fn put_x(row: u32, part: u32, eight: Codes) {
    let four = max(abs(eight.lo), abs(eight.hi));
    // Zeros need no scale, but must not be divided by none.
    let scale = max(max(max(four.x, four.y), max(four.z, four.w)) / 127.0, 1e-30);
    let codes = Codes(round(eight.lo / scale), round(eight.hi / scale));
    // The sum of what they were rounded to: so what is lost is multiplied by whole weights, which are smaller than codes.
    x_tile[row * STRIDE + part] = packed(codes, scale, dot(codes.lo + codes.hi, vec4<f32>(scale)));
}

fn put_w(row: u32, part: u32, codes: Codes, scale: f32, offset: f32) {
    w_tile[row * STRIDE + part] = packed(codes, scale, offset);
}

fn w_at(row: u32, k: u32) -> vec4<u32> {
    return w_tile[row * STRIDE + k];
}

fn product(x: vec4<u32>, w: vec4<u32>) -> f32 {
    let codes = f32(dot4I8Packed(x.x, w.x) + dot4I8Packed(x.y, w.y));
    return codes * (bitcast<f32>(x.z) * bitcast<f32>(w.z)) + bitcast<f32>(x.w) * bitcast<f32>(w.w);
}
