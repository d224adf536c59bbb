// RMS norms of the heads of q, k and v, where there are any, then what rope_kv_write does: rotates (and scales) q in
// place and k on its way into the cache; stores k and v at the step's positions.
// Grid: (heads of q, k and v; tokens). 64 lanes a head.
#import lib/step
#import lib/kv

struct Params {
    n_heads: u32,
    n_kv_heads: u32, // 0: only q
    n_kept: u32, // positions of the cache; beyond them its rows come again
    n_pairs: u32, // rotated pairs of a head; the rest passes through
    neox: u32,    // 1: pairs are (i, i + n_pairs), 0: (2i, 2i + 1)
    q_beta: f32,  // q is multiplied by 1 + q_beta * ln(1 + floor(position / q_context))
    q_context: u32,
    normed: u32,  // bits 0, 1, 2: whether q, k, v are normalised
    q_eps: f32,
    k_eps: f32,
    v_eps: f32,
    q_width: u32, // elements of the norm's weight: a head's, shared by all, or all heads'; 0: no weight
    k_width: u32,
    q_at: u32,    // where it begins in `norms`
    k_at: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> k: array<f32>;           // [n_tokens, n_kv_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> v: array<f32>;           // [n_tokens, n_kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> table: array<vec2<f32>>; // [n_ctx, n_pairs] cos, sin
@group(0) @binding(5) var<storage, read> norms: array<f32>;
@group(0) @binding(6) var<storage, read_write> q: array<f32>;     // [n_tokens, n_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> k_cache: array<kv_t>;
@group(0) @binding(8) var<storage, read_write> v_cache: array<kv_t>;

const LANES: u32 = 64u;
const HALF: u32 = HEAD_DIM / 2u;
// Pairs of a cached head, those of its filling among them.
const PAIRS: u32 = D4 * 2u;

var<workgroup> squares: array<f32, LANES>;

#import attention/rope
#if KV_BITS
#import attention/store_block
#endif

fn load(kind: u32, at: u32) -> f32 {
    if kind == 0u {
        return q[at];
    }
    if kind == 1u {
        return k[at];
    }
    return v[at];
}

// Element `i` of head `head` after the norm, whose weights the last two name.
fn weighted(value: f32, element: u32, width: u32, at: u32) -> f32 {
    if width == 0u {
        return value;
    }
    return value * norms[at + element % width];
}

// The two elements of `pair` of head `head`, which begins at `first`, after the norm.
fn normed_pair(
    kind: u32,
    first: u32,
    head: u32,
    pair: u32,
    factor: f32,
    width: u32,
    norm_at: u32,
) -> vec2<f32> {
    let at = elements(pair);
    let element = head * HEAD_DIM;
    return vec2<f32>(
        weighted(load(kind, first + at.x) * factor, element + at.x, width, norm_at),
        weighted(load(kind, first + at.y) * factor, element + at.y, width, norm_at),
    );
}

// Values are not rotated.
fn turned(kind: u32, pair: u32, position: u32, two: vec2<f32>) -> vec2<f32> {
    if kind == 2u {
        return two;
    }
    return rotated(pair, position, two);
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let token = group.y;
    if token >= step.n_tokens || group.x >= params.n_heads + 2u * params.n_kv_heads {
        return;
    }
    // 0: q, 1: k, 2: v.
    var kind = 0u;
    var head = group.x;
    var n_heads = params.n_heads;
    if head >= params.n_heads {
        head -= params.n_heads;
        kind = 1u + head / params.n_kv_heads;
        head = head % params.n_kv_heads;
        n_heads = params.n_kv_heads;
    }
    let first = (token * n_heads + head) * HEAD_DIM;
    var square = 0.0;
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        let value = load(kind, first + i);
        square += value * value;
    }
    squares[lane] = square;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += squares[i];
    }
    let eps = select(select(params.v_eps, params.k_eps, kind == 1u), params.q_eps, kind == 0u);
    var factor = 1.0;
    if (params.normed & (1u << kind)) != 0u {
        factor = 1.0 / sqrt(sum / f32(HEAD_DIM) + eps);
    }
    var width = select(params.k_width, params.q_width, kind == 0u);
    if kind == 2u {
        width = 0u;
    }
    let norm_at = select(params.k_at, params.q_at, kind == 0u);
    let position = step.pos + token;
#if KV_BITS
    if kind != 0u {
        for (var index = lane; index < KV_BLOCKS; index += LANES) {
            for (var i = 0u; i < 32u; i++) {
                let element = index * 32u + i;
                block[i] = 0.0;
                if element < HEAD_DIM {
                    let pair = pair_of(element);
                    let two = normed_pair(kind, first, head, pair, factor, width, norm_at);
                    block[i] = of_pair(element, turned(kind, pair, position, two));
                }
            }
            store_block(kind == 2u, position % params.n_kept * params.n_kv_heads + head, index);
        }
        return;
    }
#else
    let cached = (position % params.n_kept * params.n_kv_heads + head) * 4u * D4;
#endif
    for (var pair = lane; pair < PAIRS; pair += LANES) {
        let at = elements(pair);
        var two = vec2<f32>();
        if pair < HALF {
            two = turned(kind, pair, position, normed_pair(kind, first, head, pair, factor, width, norm_at));
        }
        if kind == 0u {
            if pair < HALF {
                let scale = 1.0 + params.q_beta * log(1.0 + f32(position / params.q_context));
                q[first + at.x] = two.x * scale;
                q[first + at.y] = two.y * scale;
            }
        }
#if KV_BITS
#else
        else if kind == 1u {
            k_cache[cached + at.x] = to_kv(two.x);
            k_cache[cached + at.y] = to_kv(two.y);
        } else {
            v_cache[cached + at.x] = to_kv(two.x);
            v_cache[cached + at.y] = to_kv(two.y);
        }
#endif
    }
}
