// Rotates (and scales) q in place and k on its way into the cache; stores k and v at the step's positions.
// Grid: (pairs of all heads of q, k and v / 64, tokens); where the cache is kept in blocks, a lane takes one of k or v.
// Angles come from a table made on the CPU in f64: WGSL's sin and cos are too coarse for large arguments.
#import lib/step
#import lib/kv

struct Params {
    n_heads: u32,
    n_kv_heads: u32, // 0: only q is rotated
    n_kept: u32, // positions of the cache; beyond them its rows come again
    n_pairs: u32, // rotated pairs of a head; the rest passes through
    neox: u32,    // 1: pairs are (i, i + n_pairs), 0: (2i, 2i + 1)
    q_beta: f32,  // q is multiplied by 1 + q_beta * ln(1 + floor(position / q_context))
    q_context: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> k: array<f32>;                // [n_tokens, n_kv_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> v: array<f32>;                // [n_tokens, n_kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> table: array<vec2<f32>>;      // [n_ctx, n_pairs] cos, sin
@group(0) @binding(5) var<storage, read_write> q: array<f32>;          // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read_write> k_cache: array<kv_t>;
@group(0) @binding(7) var<storage, read_write> v_cache: array<kv_t>;

const HALF: u32 = HEAD_DIM / 2u;
// Pairs of a cached head, those of its filling among them.
const PAIRS: u32 = D4 * 2u;

#import attention/rope
#if KV_BITS
#import attention/store_block

// Block number `index` of the token's keys, then of its values.
fn keep_block(token: u32, index: u32) {
    let head = index / KV_BLOCKS;
    if head >= 2u * params.n_kv_heads {
        return;
    }
    let is_v = head >= params.n_kv_heads;
    let kv_head = head % params.n_kv_heads;
    let source = (token * params.n_kv_heads + kv_head) * HEAD_DIM;
    let position = step.pos + token;
    for (var i = 0u; i < 32u; i++) {
        let element = (index % KV_BLOCKS) * 32u + i;
        block[i] = 0.0;
        if element < HEAD_DIM && is_v {
            block[i] = v[source + element];
        } else if element < HEAD_DIM {
            let at = elements(pair_of(element));
            let two = vec2<f32>(k[source + at.x], k[source + at.y]);
            block[i] = of_pair(element, rotated(pair_of(element), position, two));
        }
    }
    store_block(is_v, position % params.n_kept * params.n_kv_heads + kv_head, index % KV_BLOCKS);
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.y;
    let head = id.x / PAIRS;
    let pair = id.x % PAIRS;
#if KV_BITS
    if token < step.n_tokens && head >= params.n_heads {
        keep_block(token, id.x - params.n_heads * PAIRS);
    }
    if token >= step.n_tokens || head >= params.n_heads {
        return;
    }
#else
    if token >= step.n_tokens || head >= params.n_heads + 2u * params.n_kv_heads {
        return;
    }
#endif
    let position = step.pos + token;
    let at = elements(pair);
    if head < params.n_heads {
        if pair >= HALF {
            return;
        }
        let first = (token * params.n_heads + head) * HEAD_DIM;
        let factor = 1.0 + params.q_beta * log(1.0 + f32(position / params.q_context));
        let turned = rotated(pair, position, vec2<f32>(q[first + at.x], q[first + at.y]));
        q[first + at.x] = turned.x * factor;
        q[first + at.y] = turned.y * factor;
        return;
    }
#if KV_BITS
#else
    let is_v = head >= params.n_heads + params.n_kv_heads;
    let kv_head = (head - params.n_heads) % params.n_kv_heads;
    let source = (token * params.n_kv_heads + kv_head) * HEAD_DIM;
    let cached = (position % params.n_kept * params.n_kv_heads + kv_head) * 4u * D4;
    if pair >= HALF {
        if is_v {
            v_cache[cached + at.x] = to_kv(0.0);
            v_cache[cached + at.y] = to_kv(0.0);
        } else {
            k_cache[cached + at.x] = to_kv(0.0);
            k_cache[cached + at.y] = to_kv(0.0);
        }
        return;
    }
    if is_v {
        v_cache[cached + at.x] = to_kv(v[source + at.x]);
        v_cache[cached + at.y] = to_kv(v[source + at.y]);
    } else {
        let turned = rotated(pair, position, vec2<f32>(k[source + at.x], k[source + at.y]));
        k_cache[cached + at.x] = to_kv(turned.x);
        k_cache[cached + at.y] = to_kv(turned.y);
    }
#endif
}
