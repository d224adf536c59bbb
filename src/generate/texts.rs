//! What a backend's KV caches hold, and which of them a prompt is computed in.
//!
//! Principal types: [`Text`] and [`place`]. Must not know backends.

use std::cmp::Reverse;

/// The text of a sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    /// Token of each filled position of the KV cache.
    pub(super) tokens: Vec<u32>,
    /// Whether they were rotated as for long texts.
    pub(super) long_rope: bool,
    /// Tokens of the last prompt; those behind them answer it.
    pub(super) n_prompt: usize,
    /// Larger for texts that were used later.
    pub(super) used: usize,
}

impl Text {
    /// How many tokens it begins with that `ids` begin with as well.
    pub(super) fn common(&self, ids: &[u32]) -> usize {
        self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count()
    }

    /// The same where `ids` go on with the text: more than three quarters of its last prompt stay. Replies do not count,
    /// for templates shorten them. Another text that begins alike is not worth what it would overwrite.
    fn continued(&self, ids: &[u32]) -> usize {
        let common = self.common(ids);
        if 4 * common > 3 * self.n_prompt.min(self.tokens.len()) { common } else { 0 }
    }
}

/// Which of `texts` makes room for a prompt of `ids`: the one that it goes on with, else an empty one, else the one that
/// was used longest ago.
pub(super) fn place(texts: &[Text], ids: &[u32]) -> usize {
    let rank = |index: &usize| {
        let text = &texts[*index];
        (text.continued(ids), Reverse(if text.tokens.is_empty() { 0 } else { text.used }))
    };
    (0..texts.len()).rev().max_by_key(rank).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts `(tokens, n_prompt, used)`.
    fn texts(of: &[(&[u32], usize, usize)]) -> Vec<Text> {
        let text = |(tokens, n_prompt, used): &(&[u32], usize, usize)| Text {
            tokens: tokens.to_vec(),
            n_prompt: *n_prompt,
            used: *used,
            long_rope: false,
        };
        of.iter().map(text).collect()
    }

    #[test]
    fn a_prompt_takes_the_text_that_it_goes_on_with() {
        let texts = texts(&[(&[1, 2, 3, 4, 5], 4, 3), (&[1, 2, 8, 9, 5], 4, 2), (&[], 0, 0)]);
        assert_eq!(place(&texts, &[1, 2, 3, 4, 6, 7]), 0, "another reply than was kept");
        assert_eq!(place(&texts, &[1, 2, 8, 9]), 1, "the same prompt again");
        assert_eq!(place(&texts, &[1, 2, 7, 7, 7]), 2, "half of a prompt is another text's beginning");
        assert_eq!(place(&texts, &[7]), 2);
    }

    #[test]
    fn the_best_of_those_that_it_goes_on_with() {
        let texts = texts(&[(&[1, 2], 2, 9), (&[1, 2, 3, 4], 4, 1), (&[1, 2, 3, 9], 2, 5)]);
        assert_eq!(place(&texts, &[1, 2, 3, 4, 5]), 1);
        assert_eq!(place(&texts, &[1, 2, 3, 9, 5]), 2);
    }

    #[test]
    fn else_the_one_used_longest_ago_makes_room() {
        let texts = texts(&[(&[1, 2, 3], 3, 7), (&[4, 5, 6], 3, 5), (&[7, 8, 9], 3, 6)]);
        assert_eq!(place(&texts, &[2]), 1);
        // A prompt that was stopped half way has nothing behind what is there.
        let stopped = self::texts(&[(&[1, 2], 90, 2), (&[3], 1, 1)]);
        assert_eq!(place(&stopped, &[1, 2, 3]), 0);
    }
}
