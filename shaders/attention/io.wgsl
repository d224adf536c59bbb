// What the kernels of attention bind, and what a score becomes. Needs KEYS, Q_ROWS, HEAD_DIM, lib/step and lib/kv.
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
@group(0) @binding(3) var<storage, read> k_cache: array<kv_four_t>;     // [positions, n_kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> v_cache: array<kv_four_t>;     // [positions, n_kv_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> sinks: array<f32>;             // [n_heads] scores without a value
@group(0) @binding(6) var<storage, read_write> out: array<head_t>;      // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> partials: array<vec4<f32>>; // [n_tokens, n_heads, max_splits, D4 + 1]

#import attention/runs
#import attention/load_kv
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

// The query head that `row` of a kv head's rows is, counted over all tokens; rows stand token by token.
fn query_head(kv_head: u32, row: u32) -> u32 {
    return row / params.group * params.n_heads + kv_head * params.group + row % params.group;
}

// The last position that a tile of Q_ROWS of `n_rows` rows may see.
fn last_seen(first_row: u32, n_rows: u32) -> u32 {
    let last_row = min(first_row + Q_ROWS, n_rows) - 1u;
    return step.pos + select(step.n_tokens - 1u, last_row / params.group, params.causal != 0u);
}

// The first and the end of the keys that a workgroup takes: all that its rows see, or of them one of `n_runs`.
fn keys_of_run(first_row: u32, last_key: u32, run: u32, n_runs: u32) -> vec2<u32> {
    let keys = vec2<u32>(first_seen(step.pos + first_row / params.group), last_key + 1u);
    if n_runs == 1u {
        return keys;
    }
    let first = first_seen(step.pos) + run * params.split;
    return vec2<u32>(max(keys.x, first), min(keys.y, first + params.split));
}

// Where a run of keys leaves a row's sums; behind them stand its maximum and total.
fn partials_at(head_row: u32, run: u32) -> u32 {
    return (head_row * params.max_splits + run) * (D4 + 1u);
}

// The score of the key at `position` as the query at `query` sees it.
fn seen_score(product: f32, position: u32, query: u32, last_key: u32) -> f32 {
    var score = product;
    if params.softcap > 0.0 {
        // tanh may overflow within for large arguments.
        score = params.softcap * tanh(clamp(score / params.softcap, -15.0, 15.0));
    }
    let later = position > query;
    let distance = select(query - position, position - query, later);
    let near = params.window == 0u || distance < params.window;
    let visible = near && position <= last_key && (params.causal == 0u || !later);
    return select(MASKED, score, visible);
}

// A row that has seen nothing but masked keys must not count them as equals of its maximum.
fn weight_of(score: f32, highest: f32) -> f32 {
    return select(0.0, exp(score - highest), score > MASKED * 0.5);
}
