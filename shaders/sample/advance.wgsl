// Keeps a token for the CPU and puts it into the step buffer as the next step's, one position further. So the next step can
// follow in the same submit. Needs `state`, the step buffer word by word, and `chosen`.
const POS: u32 = 1u;
const N_CHOSEN: u32 = 4u;
const FIRST_TOKEN: u32 = 5u;

fn advance(value: f32, id: u32, next: u32) {
    chosen[state[N_CHOSEN]] = vec2<u32>(bitcast<u32>(value), id);
    state[N_CHOSEN] += 1u;
    state[POS] += 1u;
    state[FIRST_TOKEN] = select(id, next, id == NOBODY);
}
