// Logits in steps of an eighth of a nat (after the temperature). Buckets count the steps from the largest down, so that
// those of a run's largest are those of all runs', moved by whole steps. The last bucket holds all the rest: less than
// 2e-14 of the largest's probability each. Where a step is lost in rounding, buckets only hold more.
fn step_of(logit: f32) -> f32 {
    return floor(clamp(clamp(logit, -1e30, 1e30) * min(sampling.scale, 1e6) * 8.0, -1e9, 1e9));
}

fn bucket_of(logit: f32, largest: f32) -> u32 {
    return u32(clamp(step_of(largest) - step_of(logit), 0.0, f32(N_BUCKETS - 1u)));
}

// What weights relative to a run's largest logit are multiplied with, that they are relative to the largest of all.
fn run_factor(of_run: f32, largest: f32) -> f32 {
    let below = of_run - largest;
    return select(0.0, exp(max(below, sampling.lowest) * sampling.scale), below >= sampling.lowest);
}
