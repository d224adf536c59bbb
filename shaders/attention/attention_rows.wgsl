// What attention/attention computes, without workgroup memory, for adapters of software whose subgroups have
// eight lanes: there a load costs as much as many products, and a barrier more. A lane has a query row, all of its scores
// and sums; it loads two keys of sixteen, or their values, and has the others from their lanes.
// Grid: (kv heads, eights of query rows, runs of keys). The query heads that share a kv head are rows, token by token.
#import lib/step
#import lib/kv
#import lib/eight_lanes
#import attention/io

// Scores or weights of four keys each, eight of the lanes' first and eight of their second.
struct Sixteen {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

fn seen_scores(products: vec4<f32>, position: u32, query: u32, last_key: u32) -> vec4<f32> {
    return vec4<f32>(
        seen_score(products.x, position, query, last_key),
        seen_score(products.y, position + 1u, query, last_key),
        seen_score(products.z, position + 2u, query, last_key),
        seen_score(products.w, position + 3u, query, last_key),
    );
}

fn weights_of(scores: vec4<f32>, highest: f32) -> vec4<f32> {
    return vec4<f32>(
        weight_of(scores.x, highest),
        weight_of(scores.y, highest),
        weight_of(scores.z, highest),
        weight_of(scores.w, highest),
    );
}

// Products of the query row with the keys in two rows of the cache of every lane.
fn compute_products(q_row: u32, rows: vec2<u32>) -> Sixteen {
    var products: Sixteen;
    for (var d = 0u; d < D4; d++) {
        let four = load_q(q_row, d) * params.scale;
        let first = of_lanes(load_k(rows.x, d));
        let second = of_lanes(load_k(rows.y, d));
        products.a += four * first.low;
        products.b += four * first.high;
        products.c += four * second.low;
        products.d += four * second.high;
    }
    return products;
}

@compute @workgroup_size(Q_ROWS)
fn main(
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let first_row = group.y * Q_ROWS;
    let n_rows = step.n_tokens * params.group;
    if first_row >= n_rows {
        return;
    }
    // A lane without a row does another's work for the keys that it loads.
    let row = min(first_row + lane, n_rows - 1u);
    let query = step.pos + row / params.group;
    let q_row = query_head(group.x, row);
    let last_key = last_seen(first_row, n_rows);
    let masks = params.window != 0u || params.softcap > 0.0;
    var highest = MASKED;
    var total = 0.0;
    var sums: array<vec4<f32>, D4>;
    let seen = keys_of_run(first_row, last_key, group.z, n_groups.z);
    for (var tile = seen.x; tile < seen.y; tile += KEYS) {
        // Keys past the last one are masked; their cache rows may hold anything, so read one that is there.
        let positions = min(vec2<u32>(tile, tile + Q_ROWS) + lane, vec2<u32>(last_key));
        let rows = positions % params.n_kept * n_groups.x + group.x;
        var keys = compute_products(q_row, rows);
        if masks || tile + KEYS > step.pos + 1u {
            keys.a = seen_scores(keys.a, tile, query, last_key);
            keys.b = seen_scores(keys.b, tile + 4u, query, last_key);
            keys.c = seen_scores(keys.c, tile + 8u, query, last_key);
            keys.d = seen_scores(keys.d, tile + 12u, query, last_key);
        }
        let most = max(max(keys.a, keys.b), max(keys.c, keys.d));
        let new_highest = max(highest, max(max(most.x, most.y), max(most.z, most.w)));
        let shrink = exp(highest - new_highest);
        highest = new_highest;
        keys.a = weights_of(keys.a, highest);
        keys.b = weights_of(keys.b, highest);
        keys.c = weights_of(keys.c, highest);
        keys.d = weights_of(keys.d, highest);
        total = total * shrink + dot(keys.a + keys.b + keys.c + keys.d, vec4<f32>(1.0));
        for (var d = 0u; d < D4; d++) {
            let first = of_lanes(load_v(rows.x, d));
            let second = of_lanes(load_v(rows.y, d));
            sums[d] = sums[d] * shrink + first.low * keys.a + first.high * keys.b + second.low * keys.c
                + second.high * keys.d;
        }
    }
    let is_there = first_row + lane < n_rows;
    if n_groups.z > 1u {
        let at = partials_at(q_row, group.z);
        for (var d = 0u; d < D4 && is_there; d++) {
            partials[at + d] = sums[d];
        }
        if is_there {
            partials[at + D4] = vec4<f32>(highest, total, 0.0, 0.0);
        }
        return;
    }
    var shrink = 1.0;
    if params.has_sinks != 0u {
        let sink = sinks[group.x * params.group + row % params.group];
        let new_highest = max(highest, sink);
        shrink = exp(highest - new_highest);
        total = total * shrink + exp(sink - new_highest);
    }
    for (var d = 0u; d < D4 && is_there; d++) {
        store_out(q_row, d, sums[d] * (shrink / total));
    }
}
