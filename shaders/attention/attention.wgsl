// Attention with online softmax: out = softmax(scale * q Kt) V over the positions a token may see.
// Grid: (kv heads, tiles of query rows). The query heads that share a kv head are rows of one tile, token by token, so
// a tile of keys serves all of them; no score matrix beyond Q_ROWS x KEYS exists. The same text serves decode (few
// rows, more keys a tile) and prefill. Lanes change roles: for scores a lane has LANE_KEYS keys and Q_ROWS / ROW_GROUPS
// rows, so that what it loads serves several products; for the output it has four elements of a head, Q_ROWS / ROW_SLOTS
// rows and every KEY_SLOTS-th key.
// With more than one workgroup in z, each takes a run of SPLIT keys and leaves its sums in `partials`, to be put together
// by attention_merge (Dao et al. 2023, "Flash-Decoding for long-context inference").
#import lib/step
#import lib/kv
#import attention/io

const KEY_LANES: u32 = KEYS / LANE_KEYS;
const LANES: u32 = KEY_LANES * ROW_GROUPS;
const SCORE_ROWS: u32 = Q_ROWS / ROW_GROUPS; // rows of a lane while it computes scores
const PARTS: u32 = min(LANES / Q_ROWS, 4u);  // lanes that look for a row's maximum
const OUT_ROWS: u32 = Q_ROWS / ROW_SLOTS;    // rows of a lane while it sums values

// The scores of a lane: of its first row with all its keys, then of the next.
alias Scores = array<f32, SCORE_ROWS * LANE_KEYS>;

var<workgroup> q_tile: array<vec4<f32>, Q_ROWS * D4>;
var<workgroup> lane_max: array<f32, Q_ROWS * KEY_LANES>; // [row, key lane], of a tile
var<workgroup> part_max: array<f32, Q_ROWS * PARTS>;     // [row, part], of all tiles so far
var<workgroup> row_max: array<f32, Q_ROWS>;
var<workgroup> probs: array<f32, KEYS * Q_ROWS>;         // [key, row]
var<workgroup> sums: array<vec4<f32>, LANES>;
var<workgroup> totals: array<f32, LANES>;

fn load_q_tile(lane: u32, first_row: u32, n_rows: u32, kv_head: u32) {
    for (var i = lane; i < Q_ROWS * D4; i += LANES) {
        let row = first_row + i / D4;
        var four = vec4<f32>();
        if row < n_rows {
            four = load_q(query_head(kv_head, row), i % D4) * params.scale;
        }
        q_tile[i] = four;
    }
}

// Scores of the lane's keys, every KEY_LANES-th of the tile, with its rows, and the largest of each row.
fn compute_scores(lane: u32, tile: u32, kv_head: u32, n_kv_heads: u32, first_row: u32, last_key: u32) -> Scores {
    let group_row = (lane / KEY_LANES) * SCORE_ROWS;
    // Keys past the last one are masked; their cache rows may hold anything, so read one that is there.
    var cache_rows: array<u32, LANE_KEYS>;
    for (var k = 0u; k < LANE_KEYS; k++) {
        let position = min(tile + k * KEY_LANES + lane % KEY_LANES, last_key);
        cache_rows[k] = position % params.n_kept * n_kv_heads + kv_head;
    }
    var scores: Scores;
    for (var d = 0u; d < D4; d++) {
        var keys: array<vec4<f32>, LANE_KEYS>;
        for (var k = 0u; k < LANE_KEYS; k++) {
            keys[k] = load_k(cache_rows[k], d);
        }
        for (var r = 0u; r < SCORE_ROWS; r++) {
            let four = q_tile[(group_row + r) * D4 + d];
            for (var k = 0u; k < LANE_KEYS; k++) {
                scores[r * LANE_KEYS + k] += dot(keys[k], four);
            }
        }
    }
    for (var r = 0u; r < SCORE_ROWS; r++) {
        let query = step.pos + (first_row + group_row + r) / params.group;
        var highest = MASKED;
        for (var k = 0u; k < LANE_KEYS; k++) {
            let position = tile + k * KEY_LANES + lane % KEY_LANES;
            let score = seen_score(scores[r * LANE_KEYS + k], position, query, last_key);
            scores[r * LANE_KEYS + k] = score;
            highest = max(highest, score);
        }
        lane_max[(group_row + r) * KEY_LANES + lane % KEY_LANES] = highest;
    }
    return scores;
}

// The largest score so far of the lane's part of a row's keys.
fn find_maximum(lane: u32, running_max: f32) -> f32 {
    var highest = running_max;
    for (var at = lane % PARTS; at < KEY_LANES; at += PARTS) {
        highest = max(highest, lane_max[lane / PARTS * KEY_LANES + at]);
    }
    return highest;
}

// Turns the lane's scores into weights.
fn compute_weights(lane: u32, scores: Scores) {
    let group_row = (lane / KEY_LANES) * SCORE_ROWS;
    let key_lane = lane % KEY_LANES;
    for (var r = 0u; r < SCORE_ROWS; r++) {
        let row = group_row + r;
        var highest = part_max[row * PARTS];
        for (var part = 1u; part < PARTS; part++) {
            highest = max(highest, part_max[row * PARTS + part]);
        }
        for (var k = 0u; k < LANE_KEYS; k++) {
            let score = scores[r * LANE_KEYS + k];
            probs[(k * KEY_LANES + key_lane) * Q_ROWS + row] = weight_of(score, highest);
        }
        if key_lane == 0u {
            row_max[row] = highest;
        }
    }
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
    let last_key = last_seen(first_row, n_rows);
    let keys = keys_of_run(first_row, last_key, group.z, n_groups.z);
    load_q_tile(lane, first_row, n_rows, kv_head);
    workgroupBarrier();

    let d = lane % D4;
    let slot = lane / D4;
    let out_row = (slot % ROW_SLOTS) * OUT_ROWS;
    let key_slot = slot / ROW_SLOTS;
    let n_kv_heads = n_groups.x;
    var running_max = MASKED;
    var out_max: array<f32, OUT_ROWS>;
    var total: array<f32, OUT_ROWS>;
    var sum: array<vec4<f32>, OUT_ROWS>;
    for (var r = 0u; r < OUT_ROWS; r++) {
        out_max[r] = MASKED;
    }
    for (var tile = keys.x; tile < keys.y; tile += KEYS) {
        let scores = compute_scores(lane, tile, kv_head, n_kv_heads, first_row, last_key);
        workgroupBarrier();
        if lane < Q_ROWS * PARTS {
            running_max = find_maximum(lane, running_max);
            part_max[lane] = running_max;
        }
        workgroupBarrier();
        compute_weights(lane, scores);
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
                    let weight = probs[j * Q_ROWS + out_row + r];
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
            let head_row = query_head(kv_head, row);
            if n_groups.z > 1u {
                let at = partials_at(head_row, group.z);
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
