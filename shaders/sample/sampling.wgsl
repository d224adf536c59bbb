// How tokens are drawn (backend::Draw). The CPU writes it before the first of several draws, sample/draw goes on from
// one to the next.
struct Sampling {
    seed: vec2<u32>,
    index: u32,      // of the draw, for the random number
    mode: u32,       // as below
    scale: f32,      // 1 / temperature
    lowest: f32,     // logits further below the largest are of no probability
    min_p: f32,      // ... are not drawn
    top_p: f32,
    top_k: u32,      // 0: all
    repetition: f32,
    inverse_repetition: f32,
    presence: f32,
    frequency: f32,
    counts: u32,     // 1: `seen` is kept up to date
    n_recent: u32,   // tokens ever put into `recent`
    n_seen: u32,
    n_biases: u32,
    limited: u32,    // 1: only some tokens may be drawn
    n_top: u32,      // most probable tokens to be told
    unused: u32,
    recent: array<u32, 64>,
    seen: array<vec2<u32>>, // token, how often
}

const BEST: u32 = 0u;       // the largest logit
const PLAIN: u32 = 1u;      // all tokens, by their ids
const CANDIDATES: u32 = 2u; // the most probable tokens, in this order

const RUN: u32 = 4096u;
const N_BUCKETS: u32 = 256u;
const MAX_CANDIDATES: u32 = 1024u;
const TOP_WORDS: u32 = 21u; // pairs of a list of 20 tokens, and what goes before them
