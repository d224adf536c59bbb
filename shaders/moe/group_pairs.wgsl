// Sorts a step's pairs of token and chosen expert by expert, for products of many tokens: into tiles of pairs that chose
// the same one. Grid: (1). A lane for each expert, at most 256; whatever runs first, an expert's pairs are in their order.
#import lib/step

struct Params {
    n_experts: u32,
    n_used: u32,
    outputs: u32,
    n_tiles: u32, // for which there is room: ceil(pairs / tile) + n_experts are enough
    tile: u32,    // pairs of a tile
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> selection: array<f32>;    // [rows, 2 * n_used]
// The experts of the tiles, [n_tiles], then the tiles' pairs, [n_tiles, tile]; NONE where there is none.
@group(0) @binding(3) var<storage, read_write> groups: array<u32>;

const LANES: u32 = 256u;
const NONE: u32 = 0xffffffffu;

var<workgroup> counts: array<atomic<u32>, LANES>;
var<workgroup> chosen: array<u32, LANES>;

fn expert_of(pair: u32) -> u32 {
    let row = pair / params.n_used;
    return min(u32(selection[pair + row * params.n_used]), params.n_experts - 1u);
}

fn tiles(expert: u32) -> u32 {
    return (atomicLoad(&counts[expert]) + params.tile - 1u) / params.tile;
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    let n_pairs = value_rows(params.outputs) * params.n_used;
    for (var pair = lane; pair < n_pairs; pair += LANES) {
        atomicAdd(&counts[expert_of(pair)], 1u);
    }
    for (var at = lane; at < params.n_tiles; at += LANES) {
        groups[at] = NONE;
    }
    storageBarrier();
    workgroupBarrier();
    var first = 0u;
    for (var expert = 0u; expert < lane; expert++) {
        first += tiles(expert);
    }
    let next = first + tiles(lane);
    for (var at = first; at < next; at++) {
        groups[at] = lane;
    }
    var at = params.n_tiles + first * params.tile;
    for (var run = 0u; run < n_pairs; run += LANES) {
        let n = min(LANES, n_pairs - run);
        if lane < n {
            chosen[lane] = expert_of(run + lane);
        }
        workgroupBarrier();
        for (var i = 0u; i < n; i++) {
            if chosen[i] == lane {
                groups[at] = run + i;
                at++;
            }
        }
        workgroupBarrier();
    }
    for (; at < params.n_tiles + next * params.tile; at++) {
        groups[at] = NONE;
    }
}
