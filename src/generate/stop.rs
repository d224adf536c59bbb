//! Stop strings: text is held back as long as it may be the beginning of one, so that no part of a stop string is
//! ever shown, wherever the borders of the tokens are.
//!
//! Principal type: [`StopMatcher`]. Must not know tokens.

/// Watches a growing text for the first stop string.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The end of the text, which may yet become a stop string.
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// No stop string so far; this much text is certain (may be empty).
    No(String),
    /// The text ends before a stop string; this is the last certain piece.
    Stop(String),
}

impl StopMatcher {
    /// Watches for `stops`, none of which is empty ([`SamplingParams::validate`](super::SamplingParams::validate)).
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds a piece of text.
    pub fn push(&mut self, piece: &str) -> Matched {
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(start) = first {
            self.held.truncate(start);
            return Matched::Stop(std::mem::take(&mut self.held));
        }
        let certain = self.held.len() - self.longest_beginning();
        let rest = self.held.split_off(certain);
        Matched::No(std::mem::replace(&mut self.held, rest))
    }

    /// The text ends here: what was held back belongs to it after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn longest_beginning(&self) -> usize {
        let longest_of = |stop: &String| {
            let beginnings = stop.char_indices().map(|(end, _)| &stop[..end]).rev();
            beginnings
                .map(|beginning| (beginning.len(), self.held.ends_with(beginning)))
                .find(|(_, ends)| *ends)
        };
        self.stops.iter().filter_map(longest_of).map(|(len, _)| len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `n` characters; the text shown and whether it was stopped.
    fn run(stops: &[&str], text: &str, n: usize) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut shown = String::new();
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(n) {
            match matcher.push(&piece.iter().collect::<String>()) {
                Matched::No(text) => shown += &text,
                Matched::Stop(text) => return (shown + &text, true),
            }
            assert!(stops.iter().all(|stop| !shown.contains(stop)));
        }
        (shown + &matcher.finish(), false)
    }

    #[test]
    fn the_first_stop_string_ends_the_text_whatever_the_pieces() {
        for (stops, text, shown, stopped) in [
            (&["</s>"][..], "abc</s>def", "abc", true),
            (&["</s>"], "abc</ s></", "abc</ s></", false),
            (&["aab"], "aaaab", "aa", true),
            (&["\n\n", "\nUser:"], "one\ntwo\nUser: x\n\n", "one\ntwo", true),
            (&["é!"], "caféè é é!", "caféè é ", true),
            (&["🙂🙃"], "🙂🙂🙃", "🙂", true),
            (&["abcd", "bc"], "abce", "a", true),
            (&[], "abc", "abc", false),
        ] {
            for n in 1..=text.chars().count() {
                let (got, hit) = run(stops, text, n);
                assert_eq!((got.as_str(), hit), (shown, stopped), "{stops:?} in pieces of {n}");
            }
        }
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut matcher = StopMatcher::new(vec!["STOP".into()]);
        assert_eq!(matcher.push("go S"), Matched::No("go ".into()));
        assert_eq!(matcher.push("T"), Matched::No(String::new()));
        assert_eq!(matcher.push("ART ST"), Matched::No("START ".into()));
        assert_eq!(matcher.finish(), "ST");
    }
}
