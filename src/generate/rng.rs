//! Random numbers that depend on nothing but a seed and a step.
//!
//! Principal function: [`unit()`]. Counter-based (pcg4d: Jarzynski and Olano, "Hash Functions for GPU Rendering",
//! 2020), with 32-bit operations only, so that a shader can draw the very same numbers. Must not know what the
//! numbers are for.

/// Four well-mixed words from four words of input.
fn pcg4d(input: [u32; 4]) -> [u32; 4] {
    let [mut x, mut y, mut z, mut w] = input.map(|v| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    for round in 0..2 {
        x = x.wrapping_add(y.wrapping_mul(w));
        y = y.wrapping_add(z.wrapping_mul(x));
        z = z.wrapping_add(x.wrapping_mul(y));
        w = w.wrapping_add(y.wrapping_mul(z));
        if round == 0 {
            // The high bits of a product are the good ones: bring them down between the rounds.
            [x, y, z, w] = [x, y, z, w].map(|v| v ^ (v >> 16));
        }
    }
    [x, y, z, w]
}

/// A uniform number in `[0, 1)` with 24 random bits: the draw of step `step` of the sequence `seed`.
pub fn unit(seed: u64, step: u32) -> f32 {
    let [x, ..] = pcg4d([seed as u32, (seed >> 32) as u32, step, 0x4c61_6d70]);
    (x >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A 64-bit hash of `value`, to make a seed out of a clock reading.
pub fn mix(value: u64) -> u64 {
    let [x, y, ..] = pcg4d([value as u32, (value >> 32) as u32, 0, 0x5365_6564]);
    u64::from(x) | u64::from(y) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_depend_on_seed_and_step() {
        for seed in [0, 1, 42, u64::MAX, 1 << 32] {
            let mut buckets = [0_u32; 16];
            for step in 0..16_000 {
                let draw = unit(seed, step);
                assert!((0.0..1.0).contains(&draw));
                buckets[(draw * 16.0) as usize] += 1;
            }
            // 1000 expected each, standard deviation 31: six of them is no accident.
            assert!(buckets.iter().all(|n| (814..1186).contains(n)), "{buckets:?}");
        }
        assert_ne!(unit(1, 0), unit(2, 0));
        assert_ne!(unit(1, 0), unit(1 << 32, 0));
        assert_ne!(unit(1, 0), unit(1, 1));
    }

    /// Known values: a GPU twin must give these, and a seed must give the same text in every release.
    #[test]
    fn sequence_is_pinned() {
        let draws = [unit(0, 0), unit(0, 1), unit(42, 0)].map(|d| (d * 16_777_216.0) as u32);
        assert_eq!(draws, [13_183_433, 890_409, 9_404_143]);
    }
}
