// Tiles of a mat-mul in floats, four elements a step. With F16 the weights' tile is in half floats; activations stay f32,
// since those of some models exceed what f16 can hold.
const STEPS: u32 = 2u * PARTS;
const STRIDE: u32 = STEPS + 1u;

#if F16
alias tile_t = f16;
#else
alias tile_t = f32;
#endif

var<workgroup> x_tile: array<vec4<f32>, TILE_X * STRIDE>;
var<workgroup> w_tile: array<vec4<tile_t>, TILE_W * STRIDE>;

fn put_x(row: u32, part: u32, eight: Codes) {
    let at = row * STRIDE + part * 2u;
    x_tile[at] = eight.lo;
    x_tile[at + 1u] = eight.hi;
}

fn put_w(row: u32, part: u32, codes: Codes, scale: f32, offset: f32) {
    let at = row * STRIDE + part * 2u;
    w_tile[at] = vec4<tile_t>(codes.lo * scale + offset);
    w_tile[at + 1u] = vec4<tile_t>(codes.hi * scale + offset);
}

fn w_at(row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(w_tile[row * STRIDE + k]);
}

fn product(x: vec4<f32>, w: vec4<f32>) -> f32 {
    return dot(x, w);
}
