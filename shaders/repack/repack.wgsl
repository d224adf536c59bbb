// Puts blocks as they stand in a file into planes, in place: of each group of blocks first one field of all, then the
// next, so that codes stand at multiples of 16 bytes (`Format::planes`).
// Grid: groups, so many in a workgroup as its memory holds, folded into x and y. Lanes take the words in turn.
struct Params {
    n_groups: u32,     // groups of blocks in the buffer
    group_words: u32,
    group_blocks: u32,
    block_units: u32,  // a unit is what all fields are multiples of
    unit_bits: u32,
    planes: vec4<u32>, // of each: the unit of a block where it begins and, from bit 16 on, how many
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> blocks: array<u32>;

const LANES: u32 = 128u;
const MOST_WORDS: u32 = 512u;

var<workgroup> words: array<u32, MOST_WORDS>;

// Where in a group of blocks the unit stands that is to be its `index`-th.
fn unit_of_block(index: u32) -> u32 {
    var at = index;
    for (var p = 0u; p < 4u; p++) {
        let first = params.planes[p] & 0xffffu;
        let n = params.planes[p] >> 16u;
        if at < n * params.group_blocks {
            return at / n * params.block_units + first + at % n;
        }
        at -= n * params.group_blocks;
    }
    return 0u;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let per = MOST_WORDS / params.group_words;
    let first = (group.y * n_groups.x + group.x) * per;
    if first >= params.n_groups {
        return;
    }
    let start = first * params.group_words;
    let n_words = min(per, params.n_groups - first) * params.group_words;
    for (var i = lane; i < n_words; i += LANES) {
        words[i] = blocks[start + i];
    }
    workgroupBarrier();
    let units = 32u / params.unit_bits;
    for (var i = lane; i < n_words; i += LANES) {
        let within = i % params.group_words;
        var word = 0u;
        for (var u = 0u; u < units; u++) {
            let unit = unit_of_block(within * units + u);
            let bits = words[i - within + unit / units] >> (unit % units * params.unit_bits);
            word |= (bits & ((1u << params.unit_bits) - 1u)) << (u * params.unit_bits);
        }
        blocks[start + i] = word;
    }
}
