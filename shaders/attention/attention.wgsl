// Attention with online softmax: out = softmax(scale * q Kt) V over the positions a token may see.
// Grid: (kv heads, tiles of query rows). The query heads that share a kv head are rows of one tile, token by token, so
// a tile of keys serves all of them; no score matrix beyond Q_ROWS x KEYS exists. The same text serves decode (few
// rows, more keys a tile) and prefill. Lanes change roles: for scores a lane has one key and Q_ROWS / ROW_GROUPS rows;
// for the output it has four elements of a head, Q_ROWS / ROW_SLOTS rows and every KEY_SLOTS-th key.
// With more than one workgroup in z, each takes a run of SPLIT keys and leaves its sums in `partials`, to be put together
// by attention_merge (Dao et al. 2023, "Flash-Decoding for long-context inference").
#import lib/step
#import lib/kv

struct Params {
    n_heads: u32,
    group: u32,      // query heads per kv head
    n_kept: u32,     // positions of the cache; beyond them its rows come again
    window: u32,     // positions a token sees, itself included; 0: all
    scale: f32,
    softcap: f32,    // 0: none
    causal: u32,     // 0: later positions of the step are seen too
    has_sinks: u32,
    split: u32,      // keys of a run, a multiple of KEYS
    max_splits: u32, // runs that `partials` has room for
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<head_t>;              // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> k_cache: array<kv_four_t>;        // [positions, n_kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> v_cache: array<kv_four_t>;        // [positions, n_kv_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> sinks: array<f32>;             // [n_heads] scores without a value
@group(0) @binding(6) var<storage, read_write> out: array<head_t>;      // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> partials: array<vec4<f32>>; // [n_tokens, n_heads, max_splits, D4 + 1]

#import attention/runs
#import attention/load_kv

const LANES: u32 = KEYS * ROW_GROUPS;
const SCORE_ROWS: u32 = Q_ROWS / ROW_GROUPS; // rows of a lane while it computes scores
const ROW_LANES: u32 = LANES / Q_ROWS;       // lanes that share a row while it is normalised
const OUT_ROWS: u32 = Q_ROWS / ROW_SLOTS;    // rows of a lane while it sums values

var<workgroup> q_tile: array<vec4<f32>, Q_ROWS * D4>;
var<workgroup> scores: array<f32, Q_ROWS * KEYS>;
var<workgroup> probs: array<f32, Q_ROWS * KEYS>;
var<workgroup> row_max: array<f32, Q_ROWS>;
var<workgroup> sums: array<vec4<f32>, LANES>;
var<workgroup> totals: array<f32, LANES>;

#import attention/store_head

#if WHOLE_HEADS
// Elements 4 d to 4 d + 3 of a head, counted over all tokens.
fn load_q(head: u32, d: u32) -> vec4<f32> {
    return q[head * D4 + d];
}
#else
fn load_q(head: u32, d: u32) -> vec4<f32> {
    var four = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if d * 4u + i < HEAD_DIM {
            four[i] = q[head * HEAD_DIM + d * 4u + i];
        }
    }
    return four;
}
#endif

fn load_q_tile(lane: u32, first_row: u32, n_rows: u32, kv_head: u32) {
    for (var i = lane; i < Q_ROWS * D4; i += LANES) {
        let row = first_row + i / D4;
        var four = vec4<f32>();
        if row < n_rows {
            let head = kv_head * params.group + row % params.group;
            four = load_q((row / params.group) * params.n_heads + head, i % D4) * params.scale;
        }
        q_tile[i] = four;
    }
}

// Scores of the key at `position`, which stands `key`-th in the tile, with this lane's rows.
fn compute_scores(lane: u32, key: u32, position: u32, cache_row: u32, first_row: u32, last_key: u32) {
    let group_row = (lane / KEYS) * SCORE_ROWS;
    var dots: array<f32, SCORE_ROWS>;
    for (var d = 0u; d < D4; d++) {
        let four = load_k(cache_row, d);
        for (var r = 0u; r < SCORE_ROWS; r++) {
            dots[r] += dot(four, q_tile[(group_row + r) * D4 + d]);
        }
    }
    for (var r = 0u; r < SCORE_ROWS; r++) {
        let query = step.pos + (first_row + group_row + r) / params.group;
        var score = dots[r];
        if params.softcap > 0.0 {
            // tanh may overflow within for large arguments.
            score = params.softcap * tanh(clamp(score / params.softcap, -15.0, 15.0));
        }
        let later = position > query;
        let distance = select(query - position, position - query, later);
        let near = params.window == 0u || distance < params.window;
        let visible = near && position <= last_key && (params.causal == 0u || !later);
        scores[(group_row + r) * KEYS + key] = select(MASKED, score, visible);
    }
}

// Turns the scores of the lane's row into weights; every lane of a row finds the same maximum.
fn compute_weights(lane: u32, running_max: f32) -> f32 {
    let row = lane / ROW_LANES;
    var highest = running_max;
    for (var key = 0u; key < KEYS; key++) {
        highest = max(highest, scores[row * KEYS + key]);
    }
    for (var key = lane % ROW_LANES; key < KEYS; key += ROW_LANES) {
        let score = scores[row * KEYS + key];
        // A row that has seen nothing but masked keys must not count them as equals of its maximum.
        probs[row * KEYS + key] = select(0.0, exp(score - highest), score > MASKED * 0.5);
    }
    row_max[row] = highest;
    return highest;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let kv_head = group.x;
    let first_row = group.y * Q_ROWS;
    let n_rows = step.n_tokens * params.group;
    if first_row >= n_rows {
        return;
    }
    var last_key = step.pos + (min(first_row + Q_ROWS, n_rows) - 1u) / params.group;
    if params.causal == 0u {
        last_key = step.pos + step.n_tokens - 1u;
    }
    var first_key = first_seen(step.pos + first_row / params.group);
    var end_key = last_key + 1u;
    if n_groups.z > 1u {
        let run = first_seen(step.pos) + group.z * params.split;
        first_key = max(first_key, run);
        end_key = min(end_key, run + params.split);
    }
    load_q_tile(lane, first_row, n_rows, kv_head);
    workgroupBarrier();

    let d = lane % D4;
    let slot = lane / D4;
    let out_row = (slot % ROW_SLOTS) * OUT_ROWS;
    let key_slot = slot / ROW_SLOTS;
    let key = lane % KEYS;
    let n_kv_heads = n_groups.x;
    var running_max = MASKED;
    var out_max: array<f32, OUT_ROWS>;
    var total: array<f32, OUT_ROWS>;
    var sum: array<vec4<f32>, OUT_ROWS>;
    for (var r = 0u; r < OUT_ROWS; r++) {
        out_max[r] = MASKED;
    }
    for (var tile = first_key; tile < end_key; tile += KEYS) {
        // Keys past the last one are masked; their cache rows may hold anything, so read one that is there.
        let position = tile + key;
        let cache_row = min(position, last_key) % params.n_kept * n_kv_heads + kv_head;
        compute_scores(lane, key, position, cache_row, first_row, last_key);
        workgroupBarrier();
        running_max = compute_weights(lane, running_max);
        workgroupBarrier();
        if key_slot < KEY_SLOTS {
            for (var r = 0u; r < OUT_ROWS; r++) {
                let shrink = exp(out_max[r] - row_max[out_row + r]);
                out_max[r] = row_max[out_row + r];
                total[r] *= shrink;
                sum[r] *= shrink;
            }
            let n_keys = min(KEYS, last_key + 1u - tile);
            let first = tile % params.n_kept;
            for (var j = key_slot; j < n_keys; j += KEY_SLOTS) {
                let turn = select(0u, params.n_kept, first + j >= params.n_kept);
                let value = load_v((first + j - turn) * n_kv_heads + kv_head, d);
                for (var r = 0u; r < OUT_ROWS; r++) {
                    let weight = probs[(out_row + r) * KEYS + j];
                    total[r] += weight;
                    sum[r] += weight * value;
                }
            }
        }
    }
    for (var r = 0u; r < OUT_ROWS; r++) {
        if KEY_SLOTS > 1u {
            workgroupBarrier();
            sums[lane] = sum[r];
            totals[lane] = total[r];
            workgroupBarrier();
            for (var other = 1u; other < KEY_SLOTS; other++) {
                let there = min(lane + other * ROW_SLOTS * D4, LANES - 1u);
                sum[r] += sums[there];
                total[r] += totals[there];
            }
        }
        let row = first_row + out_row + r;
        if key_slot == 0u && row < n_rows {
            let head = kv_head * params.group + row % params.group;
            let head_row = (row / params.group) * params.n_heads + head;
            if n_groups.z > 1u {
                let at = (head_row * params.max_splits + group.z) * (D4 + 1u);
                partials[at + d] = sum[r];
                if d == 0u {
                    partials[at + D4] = vec4<f32>(out_max[r], total[r], 0.0, 0.0);
                }
            }
            // No `continue` above: the next turn's barrier must be reached by all lanes alike.
            if params.has_sinks != 0u {
                let highest = max(out_max[r], sinks[head]);
                let shrink = exp(out_max[r] - highest);
                sum[r] *= shrink;
                total[r] = total[r] * shrink + exp(sinks[head] - highest);
            }
            if n_groups.z == 1u {
                store_out(head_row, d, sum[r] / total[r]);
            }
        }
    }
}
