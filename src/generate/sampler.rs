//! From logits to the next token.
//!
//! Principal type: [`Sampler`]. The steps, in order: bias, penalties, mask, temperature, top-k, top-p, min-p, draw; each
//! works on what the one before left. The vocabulary is never sorted whole. Must not know models or text.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::params::{REPETITION_WINDOW, SamplingParams};
use super::rng;
use crate::backend::Draw;
use crate::bail;
use crate::error::Result;

/// Chooses the tokens of one request.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// How tokens are drawn; its lists of earlier tokens stay empty.
    rule: Draw,
    /// How often each token was generated, for the presence and frequency penalties.
    counts: BTreeMap<u32, u32>,
    /// Reused between steps.
    candidates: Vec<Candidate>,
}

/// A token that may yet be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    /// Penalised logit, and its unnormalised probability.
    logit: f32,
    weight: f32,
    id: u32,
}

/// How many of the most probable tokens top-p looks at first; most distributions need no more.
const FIRST_HEAD: usize = 128;

/// Powers of e below this are 0 in f32.
const LOWEST_POWER: f32 = -104.0;

const _: () = assert!(REPETITION_WINDOW == Draw::MAX_RECENT);

impl Sampler {
    /// A sampler for one request, of logits of `n_vocab` tokens.
    /// # Errors
    /// `InvalidRequest` naming the field, from [`SamplingParams::validate`] and [`SamplingParams::check_ids`].
    pub fn new(params: &SamplingParams, n_vocab: usize) -> Result<Self> {
        params.validate()?;
        params.check_ids(n_vocab)?;
        let &SamplingParams { temperature, top_p, top_k, min_p, .. } = params;
        let seed = params.seed.unwrap_or_else(seed_from_clock);
        let rule = Draw {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            bias: params.logit_bias.clone(),
            top: params.top_logprobs.map(|n| n as usize),
            allowed: params.allowed_token_ids.as_ref().map(|ids| bits(ids, n_vocab)),
            ..Draw::BEST
        };
        if temperature == 0.0 {
            return Ok(Self::of_draw(&rule));
        }
        // Where a share is of the largest, its logarithm is how far below the largest a logit may be.
        let floor = LOWEST_POWER * temperature;
        let min_p = if min_p > 0.0 { (min_p.ln() * temperature).max(2.0 * floor) } else { 2.0 * floor };
        let scale = temperature.recip().min(f32::MAX);
        Ok(Self::of_draw(&Draw { scale, floor, min_p, top_p, top_k, seed, ..rule }))
    }

    /// A sampler that goes on as `draw` says.
    pub(super) fn of_draw(draw: &Draw) -> Self {
        let rule = Draw { recent: Vec::new(), seen: Vec::new(), ..draw.clone() };
        // Not collected: that would sort first, which takes a page code for each kind of map.
        let mut counts = BTreeMap::new();
        counts.extend(draw.seen.iter().copied());
        Self { rule, counts, candidates: Vec::new() }
    }

    /// The seed in use, also when it came from the clock.
    pub fn seed(&self) -> u64 {
        self.rule.seed
    }

    /// How many of the most probable tokens are to be told, if any.
    pub fn top(&self) -> Option<usize> {
        self.rule.top
    }

    /// How the next tokens are to be drawn after `history` and `last`, by a backend that does so.
    pub fn draw(&self, history: &[u32], last: u32) -> Draw {
        let mut draw = self.rule.clone();
        if draw.repetition != 1.0 {
            let before = history.len().saturating_sub(REPETITION_WINDOW - 1);
            draw.recent = history[before..].to_vec();
            draw.recent.push(last);
        }
        if draw.counts() {
            draw.seen = self.counts.iter().map(|(id, count)| (*id, *count)).collect();
        }
        draw
    }

    /// Takes note of a token that was drawn elsewhere.
    pub fn accept(&mut self, id: u32) {
        self.rule.index = self.rule.index.wrapping_add(1);
        if self.rule.counts() {
            *self.counts.entry(id).or_default() += 1;
        }
    }

    /// Chooses a token. `logits` is `[n_vocab]` and is changed; `history` is everything before the new token, prompt
    /// and generated, of which the last [`REPETITION_WINDOW`] count.
    /// # Errors
    /// `Internal` when no logit is a finite number: the computation went wrong, and any token would hide it.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        self.change(logits, history);
        let best = argmax(logits);
        let Some(best) = best.filter(|best| logits[*best as usize].is_finite()) else {
            bail!(Internal, "no finite number among {} logits", logits.len());
        };
        let id = match self.rule.scale == 0.0 {
            true => best,
            false => self.draw_one(logits, logits[best as usize]),
        };
        self.accept(id);
        Ok(id)
    }

    /// Biases first, as in llama.cpp and vLLM. Repetition over the last tokens of prompt and text, as llama.cpp and
    /// Hugging Face do it; presence and frequency over the generated text alone, as OpenAI does it. Tokens that are
    /// not allowed are left without a logit, the end of the text too (vLLM's rule).
    fn change(&self, logits: &mut [f32], history: &[u32]) {
        let Draw { repetition, presence, frequency, .. } = self.rule;
        for (id, bias) in &self.rule.bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        if repetition != 1.0 {
            let mut recent = history[history.len().saturating_sub(REPETITION_WINDOW)..].to_vec();
            recent.sort_unstable();
            recent.dedup();
            let inverse = 1.0 / repetition;
            for id in recent {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit *= if *logit > 0.0 { inverse } else { repetition };
                }
            }
        }
        for (id, count) in &self.counts {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit -= presence + frequency * *count as f32;
            }
        }
        if let Some(allowed) = &self.rule.allowed {
            for (id, logit) in logits.iter_mut().enumerate() {
                if allowed.get(id / 32).is_none_or(|word| word >> (id % 32) & 1 == 0) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Top-k, top-p, min-p, draw. `max` is the largest logit.
    fn draw_one(&mut self, logits: &[f32], max: f32) -> u32 {
        let Draw { scale, floor, min_p, top_p, top_k, .. } = self.rule;
        let candidates = &mut self.candidates;
        candidates.clear();
        // A NaN weighs nothing. Subtracting the maximum first keeps tiny temperatures from overflowing.
        candidates.extend(logits.iter().zip(0..).filter_map(|(logit, id)| {
            let below = logit - max;
            let weight = if below >= floor { (below * scale).exp() } else { 0.0 };
            (weight > 0.0).then_some(Candidate { logit: *logit, weight, id })
        }));
        if self.rule.limits(logits.len()) {
            keep_most_probable(candidates, top_k as usize);
        }
        if top_p < 1.0 {
            keep_nucleus(candidates, f64::from(top_p));
        }
        candidates.retain(|candidate| candidate.logit - max >= min_p);
        let total: f64 = total(candidates);
        let mut rest = f64::from(rng::unit(self.rule.seed, self.rule.index)) * total;
        for candidate in candidates.iter() {
            rest -= f64::from(candidate.weight);
            if rest < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave a crumb: it belongs to the last one.
        let last = candidates.last();
        last.expect("invariant: the most probable token is always kept").id
    }
}

/// The index of the largest logit, the lowest one on ties; NaN is passed over.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut max = f32::NEG_INFINITY;
    for (logit, id) in logits.iter().zip(0..) {
        if *logit > max {
            (best, max) = (Some(id), *logit);
        }
    }
    best
}

/// Most probable first, lowest id first on ties. By logits: of different ones the weights may be the same.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// Keeps the `k` most probable candidates, most probable first.
fn keep_most_probable(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_logit);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_logit);
}

/// Keeps the fewest most probable candidates whose share reaches `top_p`, at least one, most probable first.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f64) {
    let wanted = total(candidates) * top_p;
    let mut head = FIRST_HEAD;
    loop {
        let n = head.min(candidates.len());
        if n < candidates.len() {
            candidates.select_nth_unstable_by(n, by_logit);
        }
        candidates[..n].sort_unstable_by(by_logit);
        let mut reached = 0.0;
        let inside = candidates[..n].iter().position(|candidate| {
            reached += f64::from(candidate.weight);
            reached >= wanted
        });
        match inside {
            Some(last) => return candidates.truncate(last + 1),
            None if n == candidates.len() => return,
            // A flat distribution: look at more of it.
            None => head *= 8,
        }
    }
}

/// [`Draw::allowed`] of `ids`, all below `n_vocab`.
fn bits(ids: &[u32], n_vocab: usize) -> Rc<[u32]> {
    let mut words = vec![0; n_vocab.div_ceil(32)];
    for id in ids {
        words[*id as usize / 32] |= 1_u32 << (id % 32);
    }
    words.into()
}

/// A seed for requests that bring none.
fn seed_from_clock() -> u64 {
    let now = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH);
    // 53 bits: a seed that JavaScript can show and give back.
    rng::mix(now.map_or(0, |elapsed| elapsed.as_nanos() as u64)) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplingParams)) -> Sampler {
        let mut params = SamplingParams { seed: Some(7), ..SamplingParams::default() };
        change(&mut params);
        Sampler::new(&params, 1000).unwrap()
    }

    /// How often each token is drawn from `logits` in `n` steps, penalties aside.
    fn histogram(sampler: &mut Sampler, logits: &[f32], n: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1;
        }
        counts
    }

    fn drawn(counts: &[usize]) -> Vec<usize> {
        (0..counts.len()).filter(|id| counts[*id] > 0).collect()
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_id_on_ties() {
        let mut greedy = sampler(|p| p.temperature = 0.0);
        assert_eq!(greedy.sample(&mut [0.0, 3.0, f32::NAN, 3.0, -1.0], &[]).unwrap(), 1);
        assert_eq!(greedy.sample(&mut [-5.0, -5.0], &[]).unwrap(), 0);
    }

    #[test]
    fn logits_without_a_finite_number_are_an_error() {
        for logits in [vec![], vec![f32::NAN; 3], vec![f32::NEG_INFINITY; 3], vec![0.0, f32::INFINITY]] {
            for temperature in [0.0, 1.0] {
                let mut sampler = sampler(|p| p.temperature = temperature);
                assert!(sampler.sample(&mut logits.clone(), &[]).is_err(), "{logits:?}");
            }
        }
    }

    #[test]
    fn draws_follow_the_softmax_of_the_scaled_logits() {
        let logits = [1.0_f32, 2.0, 0.0, f32::NEG_INFINITY];
        for temperature in [0.5_f32, 1.0, 2.0] {
            let counts = histogram(&mut sampler(|p| p.temperature = temperature), &logits, 20_000);
            let weights = logits.map(|l| (l / temperature).exp());
            let sum: f32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let expected = 20_000.0 * weight / sum;
                // Five standard deviations of a binomial, which is at most 71 here.
                assert!((*count as f32 - expected).abs() <= 355.0, "{count} against {expected}");
            }
        }
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_not_a_nan() {
        let mut sampler = sampler(|p| p.temperature = f32::MIN_POSITIVE);
        assert_eq!(histogram(&mut sampler, &[1.0, 3.0, 2.9], 50), [0, 50, 0]);
    }

    #[test]
    fn top_k_top_p_and_min_p_keep_what_they_say() {
        // Probabilities 0.1, 0.4, 0.2, 0.3.
        let logits = [0.1_f32, 0.4, 0.2, 0.3].map(f32::ln);
        let keep = |change: fn(&mut SamplingParams)| drawn(&histogram(&mut sampler(change), &logits, 500));
        assert_eq!(keep(|_| ()), [0, 1, 2, 3]);
        assert_eq!(keep(|p| p.top_k = 1), [1]);
        assert_eq!(keep(|p| p.top_k = 3), [1, 2, 3]);
        assert_eq!(keep(|p| p.top_k = 99), [0, 1, 2, 3]);
        assert_eq!(keep(|p| p.top_p = 0.0), [1]);
        assert_eq!(keep(|p| p.top_p = 0.35), [1]);
        assert_eq!(keep(|p| p.top_p = 0.65), [1, 3]);
        assert_eq!(keep(|p| p.top_p = 0.85), [1, 2, 3]);
        assert_eq!(keep(|p| p.min_p = 0.6), [1, 3]);
        assert_eq!(keep(|p| p.min_p = 1.0), [1]);
        // Top-p sees the distribution that top-k left: 4/7 and 3/7.
        assert_eq!(keep(|p| (p.top_k, p.top_p) = (2, 0.55)), [1]);
        assert_eq!(keep(|p| (p.top_k, p.top_p) = (2, 0.6)), [1, 3]);
    }

    #[test]
    fn top_p_over_a_flat_vocabulary_goes_beyond_its_first_head() {
        let n = 3 * FIRST_HEAD;
        let counts = histogram(&mut sampler(|p| p.top_p = 0.5), &vec![0.25; n], 20_000);
        // Ties: the lower half of the ids, all of it.
        assert_eq!(drawn(&counts), (0..n / 2).collect::<Vec<_>>());
    }

    #[test]
    fn the_repetition_penalty_sees_the_last_64_tokens() {
        let mut greedy = sampler(|p| (p.temperature, p.repetition_penalty) = (0.0, 2.0));
        assert_eq!(greedy.sample(&mut [3.0, 2.0], &[0]).unwrap(), 1);
        assert_eq!(greedy.sample(&mut [-2.0, -3.0], &[0]).unwrap(), 1);
        let mut old = vec![1; 65];
        old[0] = 0;
        assert_eq!(greedy.sample(&mut [3.0, 2.9], &old).unwrap(), 0);
        // However often a token stands there, it is penalised once.
        assert_eq!(greedy.sample(&mut [3.0, 1.4], &[0, 0, 0]).unwrap(), 0);
    }

    #[test]
    fn presence_and_frequency_count_generated_tokens_only() {
        let mut greedy = sampler(|p| (p.temperature, p.presence_penalty) = (0.0, 1.0));
        assert_eq!(greedy.sample(&mut [3.0, 2.5], &[0, 0, 0]).unwrap(), 0);
        assert_eq!(greedy.sample(&mut [3.0, 2.5], &[]).unwrap(), 1);
        assert_eq!(greedy.sample(&mut [3.0, 2.5], &[]).unwrap(), 0);
        let mut greedy = sampler(|p| (p.temperature, p.frequency_penalty) = (0.0, 0.4));
        let ids: Vec<u32> = (0..4).map(|_| greedy.sample(&mut [3.0, 2.5], &[]).unwrap()).collect();
        assert_eq!(ids, [0, 0, 1, 0]);
    }

    #[test]
    fn biases_are_added_before_the_penalties() {
        let biased = |p: &mut SamplingParams| {
            (p.temperature, p.repetition_penalty, p.logit_bias) =
                (0.0, 2.0, vec![(0, -4.0), (2, 3.0), (900, 9.0)]);
        };
        // 3 - 4 = -1, doubled to -2; 0.5 + 3 = 3.5, halved to 1.75.
        assert_eq!(sampler(biased).sample(&mut [3.0, -1.9, -9.0], &[0, 2]).unwrap(), 1);
        assert_eq!(sampler(biased).sample(&mut [3.0, 1.7, 0.5], &[0, 2]).unwrap(), 2);
        assert_eq!(sampler(biased).sample(&mut [3.0, 1.8, 0.5], &[0, 2]).unwrap(), 1);
        let even = [0.0_f32; 4];
        let counts = histogram(&mut sampler(|p| p.logit_bias = vec![(1, -100.0), (3, 100.0)]), &even, 200);
        assert_eq!(counts, [0, 0, 0, 200]);
    }

    #[test]
    fn only_allowed_tokens_are_drawn() {
        let logits: Vec<f32> = (0..70).map(|id| (id % 7) as f32 * 0.1).collect();
        let allowed = vec![1, 31, 32, 64, 64];
        let counts = histogram(&mut sampler(|p| p.allowed_token_ids = Some(allowed.clone())), &logits, 500);
        assert_eq!(drawn(&counts), [1, 31, 32, 64]);
        // The most probable of them is token 32 (32 % 7 = 4), and a bias does not let in one that is not.
        let greedy = |p: &mut SamplingParams| {
            (p.temperature, p.allowed_token_ids) = (0.0, Some(allowed.clone()));
            p.logit_bias = vec![(2, 100.0)];
        };
        assert_eq!(sampler(greedy).sample(&mut logits.clone(), &[]).unwrap(), 32);
        let mut none = vec![f32::NEG_INFINITY; 70];
        none[5] = 1.0;
        assert!(sampler(greedy).sample(&mut none, &[]).is_err(), "nothing that is allowed has a probability");
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
        let run = |seed| -> Vec<u32> {
            let mut sampler = sampler(|p| (p.seed, p.top_k, p.top_p) = (Some(seed), 200, 0.9));
            (0..64).map(|_| sampler.sample(&mut logits.clone(), &[]).unwrap()).collect()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
