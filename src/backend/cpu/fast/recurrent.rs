//! The recurrences over a matrix per head, row by row: each touches a row of values once, in loops that compilers
//! turn into vectors. Principal item: [`RECURRENCES`]. Must not know graphs.

use super::super::recurrent::{DeltaHead, GatedDelta, MAX_HEAD_DIM, Recurrences, Wkv6, Wkv7};

/// A state is `[n_heads, head_dim, head_dim]`, rows by key and columns by value.
pub(super) static RECURRENCES: Recurrences = Recurrences { wkv6, wkv7, gated_delta };

fn wkv6(op: &Wkv6, state: &mut [f32], out: &mut [f32]) {
    let n = op.head_dim;
    for (index, out) in out.chunks_exact_mut(n).enumerate() {
        let (token, head) = (index / op.n_heads, index % op.n_heads);
        let kv_head = token * op.n_kv_heads + head / (op.n_heads / op.n_kv_heads);
        let (r, k) = (&op.r[index * n..][..n], &op.k[kv_head * n..][..n]);
        let v = &op.v[kv_head * n..][..n];
        out.fill(0.0);
        for (i, row) in state[head * n * n..][..n * n].chunks_exact_mut(n).enumerate() {
            let factor = op.factor(token, head, i);
            let columns = row.iter_mut().zip(v).zip(out.iter_mut());
            match op.first {
                Some(first) => {
                    let (r, k, bonus) = (r[i] * op.scale, k[i], first[head * n + i]);
                    for ((s, v), out) in columns {
                        let kv = k * v;
                        *out += r * (*s + bonus * kv);
                        *s = factor * *s + kv;
                    }
                }
                None => {
                    let (r, k) = (r[i] * op.scale, (1.0 - factor) * k[i]);
                    for ((s, v), out) in columns {
                        *s = factor * *s + k * v;
                        *out += r * *s;
                    }
                }
            }
        }
    }
}

fn wkv7(op: &Wkv7, state: &mut [f32], out: &mut [f32]) {
    let n = op.head_dim;
    let width = op.n_heads * n;
    let mut removed = [0.0; MAX_HEAD_DIM];
    let removed = &mut removed[..n];
    for (index, out) in out.chunks_exact_mut(n).enumerate() {
        let (token, head) = (index / op.n_heads, index % op.n_heads);
        let (r, v) = (&op.r[index * n..][..n], &op.v[index * n..][..n]);
        let keys = |part: usize| &op.keys[(3 * token + part) * width + head * n..][..n];
        let (k, a, b) = (keys(0), keys(1), keys(2));
        let state = &mut state[head * n * n..][..n * n];
        removed.fill(0.0);
        for (row, a) in state.chunks_exact(n).zip(a) {
            removed.iter_mut().zip(row).for_each(|(removed, s)| *removed += a * s);
        }
        out.fill(0.0);
        for (i, row) in state.chunks_exact_mut(n).enumerate() {
            let (factor, r, k, b) = (op.factor(index * n + i), r[i], k[i], b[i]);
            for (((s, v), removed), out) in row.iter_mut().zip(v).zip(removed.iter()).zip(out.iter_mut()) {
                *s = factor * *s + b * removed + k * v;
                *out += r * *s;
            }
        }
    }
}

fn gated_delta(op: &GatedDelta, state: &mut [f32], out: &mut [f32]) {
    let n = op.head_dim;
    let mut delta = [0.0; MAX_HEAD_DIM];
    let delta = &mut delta[..n];
    for (index, out) in out.chunks_exact_mut(n).enumerate() {
        let (token, head) = (index / op.n_v_heads, index % op.n_v_heads);
        let DeltaHead { q, k, v, q_factor, k_factor, decay, beta } = op.head(token, head);
        let (q_factor, k_factor) = (q_factor as f32, k_factor as f32);
        let state = &mut state[head * n * n..][..n * n];
        delta.fill(0.0);
        for (row, k) in state.chunks_exact_mut(n).zip(k) {
            let k = k * k_factor;
            for (s, known) in row.iter_mut().zip(delta.iter_mut()) {
                *s *= decay;
                *known += k * *s;
            }
        }
        delta.iter_mut().zip(v).for_each(|(delta, v)| *delta = beta * (v - *delta));
        out.fill(0.0);
        for ((row, k), q) in state.chunks_exact_mut(n).zip(k).zip(q) {
            let (k, q) = (k * k_factor, q * q_factor);
            for ((s, delta), out) in row.iter_mut().zip(delta.iter()).zip(out.iter_mut()) {
                *s += k * delta;
                *out += q * *s;
            }
        }
    }
}
