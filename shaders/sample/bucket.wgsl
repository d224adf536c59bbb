// Logits by their distance from the largest, an eighth of a nat (after the temperature) a bucket.
// The last bucket holds all the rest: less than 2e-14 of the largest's probability each.
fn bucket_of(below: f32) -> u32 {
    return u32(min(below * sampling.scale * -8.0, f32(N_BUCKETS - 1u)));
}
