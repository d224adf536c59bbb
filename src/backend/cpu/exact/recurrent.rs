//! The recurrences over a matrix per head, element by element with sums in f64. Principal item: [`RECURRENCES`].
//! Must not know graphs.

use super::super::recurrent::{DeltaHead, GatedDelta, MAX_HEAD_DIM, Recurrences, Wkv6, Wkv7};

/// A state is `[n_heads, head_dim, head_dim]`, rows by key and columns by value.
pub(super) static RECURRENCES: Recurrences = Recurrences { wkv6, wkv7, gated_delta };

fn wkv6(op: &Wkv6, state: &mut [f32], out: &mut [f32]) {
    let n = op.head_dim;
    let mut factors = [0.0; MAX_HEAD_DIM];
    for (index, out) in out.chunks_exact_mut(n).enumerate() {
        let (token, head) = (index / op.n_heads, index % op.n_heads);
        let kv_head = token * op.n_kv_heads + head / (op.n_heads / op.n_kv_heads);
        let (r, k, v) = (&op.r[index * n..], &op.k[kv_head * n..], &op.v[kv_head * n..]);
        factors[..n].iter_mut().enumerate().for_each(|(i, factor)| *factor = op.factor(token, head, i));
        let state = &mut state[head * n * n..][..n * n];
        for (j, out) in out.iter_mut().enumerate() {
            let mut sum = 0f64;
            for i in 0..n {
                let s = &mut state[i * n + j];
                let seen = match op.first {
                    Some(first) => {
                        let kv = k[i] * v[j];
                        let seen = *s + first[head * n + i] * kv;
                        *s = factors[i] * *s + kv;
                        seen
                    }
                    None => {
                        *s = factors[i] * *s + (1.0 - factors[i]) * k[i] * v[j];
                        *s
                    }
                };
                sum += f64::from(r[i]) * f64::from(seen);
            }
            *out = (sum * f64::from(op.scale)) as f32;
        }
    }
}

fn wkv7(op: &Wkv7, state: &mut [f32], out: &mut [f32]) {
    let n = op.head_dim;
    let width = op.n_heads * n;
    let mut factors = [0.0; MAX_HEAD_DIM];
    for (index, out) in out.chunks_exact_mut(n).enumerate() {
        let (token, head) = (index / op.n_heads, index % op.n_heads);
        let (r, v) = (&op.r[index * n..], &op.v[index * n..]);
        factors[..n].iter_mut().enumerate().for_each(|(i, factor)| *factor = op.factor(index * n + i));
        let keys = |part: usize| &op.keys[(3 * token + part) * width + head * n..];
        let (k, a, b) = (keys(0), keys(1), keys(2));
        let state = &mut state[head * n * n..][..n * n];
        for (j, out) in out.iter_mut().enumerate() {
            let removed: f64 = (0..n).map(|i| f64::from(a[i]) * f64::from(state[i * n + j])).sum();
            let mut sum = 0f64;
            for i in 0..n {
                let s = &mut state[i * n + j];
                *s = factors[i] * *s + b[i] * removed as f32 + k[i] * v[j];
                sum += f64::from(r[i]) * f64::from(*s);
            }
            *out = sum as f32;
        }
    }
}

fn gated_delta(op: &GatedDelta, state: &mut [f32], out: &mut [f32]) {
    let n = op.head_dim;
    for (index, out) in out.chunks_exact_mut(n).enumerate() {
        let (token, head) = (index / op.n_v_heads, index % op.n_v_heads);
        let DeltaHead { q, k, v, q_factor, k_factor, decay, beta } = op.head(token, head);
        let state = &mut state[head * n * n..][..n * n];
        state.iter_mut().for_each(|s| *s *= decay);
        for (j, out) in out.iter_mut().enumerate() {
            let known: f64 = (0..n).map(|i| f64::from(k[i]) * f64::from(state[i * n + j])).sum();
            let delta = (f64::from(v[j]) - known * k_factor) * f64::from(beta);
            let mut sum = 0f64;
            for i in 0..n {
                let s = &mut state[i * n + j];
                *s += (f64::from(k[i]) * k_factor * delta) as f32;
                sum += f64::from(q[i]) * f64::from(*s);
            }
            *out = (sum * q_factor) as f32;
        }
    }
}
