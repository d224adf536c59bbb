// Product of a weight matrix with many rows of activations (prefill), with EXPERTS of each expert with those that chose it.
// Grid: (tiles of 64 weight rows folded into x and z, tiles of TILE_X activation rows in y). 128 lanes, each 4 sums of
// weight rows by TILE_X / 8 of activation rows. Tiles are as deep as lets each lane load eight activations: 32 elements,
// or 16 of 64 rows; their rows are one vec4 longer than that, against bank conflicts. What stands in them is said by
// matmul/float_tiles, or with PACKED by matmul/packed_tiles.
#import matmul/tiles

const TILE_W: u32 = 64u;
const LANES: u32 = 128u;
// Eights of elements of a tile's row.
const PARTS: u32 = LANES / TILE_X;

#if PACKED
#import matmul/packed_tiles
#else
#import matmul/float_tiles
#endif

// `row` is what the lane's slot of the tile stands for.
fn load_x_tile(lane: u32, row: u32, chunk: u32, first_part: u32) {
    let part = first_part + lane % PARTS;
    // Rows past the step's hold whatever an earlier step left there.
    var eight = Codes(vec4<f32>(), vec4<f32>());
    if row != NONE {
        eight = load_x8(x_row(row), chunk * 32u + part * 8u);
    }
    put_x(lane / PARTS, lane % PARTS, eight);
}

fn load_w_tile(lane: u32, first: u32, chunk: u32, first_part: u32) {
    let part = first_part + lane % PARTS;
    for (var row = lane / PARTS; row < TILE_W; row += TILE_X) {
        let weight = row_block(first + row);
        let scales = q_scale(weight, chunk);
        let scale = select(scales.x, scales.y, part >= 2u);
        put_w(row, lane % PARTS, q_codes(weight, chunk, part), scale, scales.z);
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let first_x = group.y * TILE_X;
    let first_w = (group.z * n_groups.x + group.x) * TILE_W;
    if is_idle(group.y, first_w) {
        return;
    }
    let loaded = out_row(first_x + lane / PARTS);
    // Lanes take every 16th weight row and every 8th activation row: neighbours read neighbouring banks.
    let lane_w = lane % 16u;
    let lane_x = lane / 16u;
    var sums: array<vec4<f32>, TILE_X / 8u>;
    let n_chunks = (params.n_cols + 31u) / 32u;
    for (var part = 0u; part < n_chunks * 4u; part += PARTS) {
        load_x_tile(lane, loaded, part / 4u, part % 4u);
        load_w_tile(lane, first_w, part / 4u, part % 4u);
        workgroupBarrier();
        for (var k = 0u; k < STEPS; k++) {
            let w0 = w_at(lane_w, k);
            let w1 = w_at(lane_w + 16u, k);
            let w2 = w_at(lane_w + 32u, k);
            let w3 = w_at(lane_w + 48u, k);
            for (var i = 0u; i < TILE_X / 8u; i++) {
                let x = x_tile[(lane_x + i * 8u) * STRIDE + k];
                sums[i] += vec4<f32>(product(x, w0), product(x, w1), product(x, w2), product(x, w3));
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TILE_X / 8u; i++) {
        let row = out_row(first_x + lane_x + i * 8u);
        for (var j = 0u; row != NONE && j < 4u; j++) {
            store(row, first_w + lane_w + j * 16u, sums[i][j]);
        }
    }
}
