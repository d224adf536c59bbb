//! Which tokens a text begins with: a sorted list of ids, narrowed byte by byte like a trie.
//!
//! Principal type: [`Prefixes`]. Must not know what the tokens are for.

use super::vocab::Vocab;
use crate::error::{Error, ErrorCode, Result};

/// Longest token accepted: every position of a text is followed this far at most.
const MAX_LENGTH: usize = 512;

/// Some of the tokens of a vocabulary, sorted by their bytes.
pub(crate) struct Prefixes {
    ids: Vec<u32>,
    /// Where the tokens of each first byte begin; one more entry for the end.
    starts: Vec<u32>,
}

impl Prefixes {
    /// Indexes the tokens that `wanted` accepts. Of two with the same bytes the later one counts, as in the reference.
    pub(crate) fn new(vocab: &Vocab, wanted: impl Fn(u32) -> bool, path: &str) -> Result<Prefixes> {
        let text = |id: u32| vocab.text(id).unwrap_or_default();
        let mut ids: Vec<u32> =
            (0..vocab.len() as u32).filter(|id| wanted(*id) && !text(*id).is_empty()).collect();
        if let Some(id) = ids.iter().find(|id| text(**id).len() > MAX_LENGTH) {
            let message = format!("token {id} is longer than {MAX_LENGTH} bytes");
            return Err(Error::new(ErrorCode::LimitExceeded, message).at(path));
        }
        ids.sort_unstable_by(|a, b| text(*a).cmp(text(*b)).then(b.cmp(a)));
        ids.dedup_by(|later, earlier| text(*later) == text(*earlier));
        let below = |byte: usize| ids.partition_point(|id| usize::from(text(*id)[0]) < byte) as u32;
        let starts = (0..=256).map(below).collect();
        Ok(Prefixes { ids, starts })
    }

    /// Calls `found` with the length and id of every token that `text` begins with, the shortest first.
    pub(crate) fn of(&self, vocab: &Vocab, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some(first) = text.first() else {
            return;
        };
        let bounds = [usize::from(*first), usize::from(*first) + 1].map(|at| self.starts[at] as usize);
        let mut live = &self.ids[bounds[0]..bounds[1]];
        for (at, byte) in text.iter().enumerate() {
            let byte_at = |id: &u32| vocab.text(*id).unwrap_or_default().get(at).copied();
            if at > 0 {
                live = &live[live.partition_point(|id| byte_at(id) < Some(*byte))..];
                live = &live[..live.partition_point(|id| byte_at(id) == Some(*byte))];
            }
            let Some(shortest) = live.first() else {
                return;
            };
            // Sorted, so the token that ends here comes first.
            if vocab.text(*shortest).is_some_and(|text| text.len() == at + 1) {
                found(at + 1, *shortest);
            }
        }
    }
}
