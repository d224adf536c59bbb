//! How many tokens of a prompt are run in one step.
//!
//! Principal type: [`ChunkLen`]. Must not know tokens or backends.

/// Tokens of the next prefill chunk, as measured on the last ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChunkLen {
    /// `None` before the first.
    next: Option<usize>,
    /// Milliseconds of the last chunk that was one token, and of the last that was one tile.
    token_ms: Option<f64>,
    tile_ms: Option<f64>,
}

impl ChunkLen {
    /// Tokens of the next chunk, of a backend that runs up to `tile` tokens as long as one.
    pub(super) fn get(self, tile: usize) -> usize {
        // Before anything was measured: short enough for a phone.
        self.next.unwrap_or(tile)
    }

    /// A new prompt begins: that a tile took too long may have been a hiccup, so it is measured again.
    pub(super) fn begin(&mut self) {
        self.next = self.next.filter(|n| *n > 1);
    }

    /// A chunk of `n` tokens took `ms`; the next shall be one that fits `budget_ms`, growing at most to double, because
    /// short chunks measure badly (attention grows with the position, a first step compiles and warms up).
    ///
    /// A part of a tile takes as long as the whole. So where less fits it is a whole tile, up to twice the budget (an
    /// abort shall be heard within 200 ms); and one token beyond, unless tokens on their own take more than twice as
    /// long as in tiles: then the prompt would be read at less than half the speed.
    pub(super) fn took(&mut self, n: usize, ms: f64, budget_ms: f64, tile: usize) {
        let ms = ms.max(1e-3);
        if n == 1 {
            self.token_ms = Some(ms);
        }
        if n == tile {
            self.tile_ms = Some(ms);
        }
        let fitting = (n as f64 * budget_ms / ms).min(2.0 * n.max(8) as f64) as usize;
        // At most what it takes for as many tokens as these.
        let tokens_ms = ms * tile as f64 / n as f64;
        let tile_ms = self.tile_ms.map_or(tokens_ms, |measured| measured.min(tokens_ms));
        let pays = self.token_ms.is_some_and(|token_ms| token_ms * tile as f64 > 2.0 * tile_ms);
        self.next = Some(match fitting {
            8.. => fitting / 8 * 8,
            _ if tile_ms <= 2.0 * budget_ms || pays => tile,
            _ => 1,
        });
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[cfg(test)]
mod tests {
    use super::*;

    /// The next chunk after one of `n` tokens that took `ms`, of a budget of 100 ms.
    fn next((n, ms): (usize, f64), tile: usize, (token_ms, tile_ms): (Option<f64>, Option<f64>)) -> usize {
        let mut chunk = ChunkLen { token_ms, tile_ms, ..ChunkLen::default() };
        chunk.took(n, ms, 100.0, tile);
        chunk.get(tile)
    }

    #[test]
    fn chunks_follow_the_budget() {
        let slow = (None, Some(240.0));
        assert_eq!(next((16, 400.0), 4, slow), 4);
        assert_eq!(next((16, 100.0), 4, slow), 16);
        assert_eq!(next((16, 1.0), 4, slow), 32, "growing is gradual");
        assert_eq!(next((1, 0.0), 4, slow), 16);
        assert_eq!(next((64, 110.0), 8, slow), 56);
        assert_eq!(next((4, 180.0), 4, slow), 4, "a part of a tile takes as long as the whole");
        assert_eq!(next((8, 180.0), 8, slow), 8);
        assert_eq!(next((4, 300.0), 4, slow), 1, "how long a token takes is not known yet");
        assert_eq!(next((1, 60.0), 4, slow), 1, "a tile would take too long");
        assert_eq!(next((1, 40.0), 4, slow), 4);
        assert_eq!(next((1, 110.0), 8, slow), 8, "a tile takes as long as two tokens");
        assert_eq!(ChunkLen::default().get(8), 8);
    }

    /// The first chunks where one token takes `token_ms` and a tile of eight `tile_ms`.
    fn lens(chunk: &mut ChunkLen, token_ms: f64, tile_ms: f64) -> [usize; 6] {
        std::array::from_fn(|_| {
            let n = chunk.get(8);
            chunk.took(n, if n == 1 { token_ms } else { tile_ms }, 100.0, 8);
            n
        })
    }

    /// Eight tokens far behind in a long text took 233 ms, one 240: alternating nearly halved the speed.
    #[test]
    fn tiles_stay_while_single_tokens_take_as_long() {
        assert_eq!(lens(&mut ChunkLen::default(), 240.0, 233.0), [8, 1, 8, 8, 8, 8]);
    }

    /// Where an abort would wait for a tile and a token is quick, tokens stay.
    #[test]
    fn tokens_stay_while_tiles_bring_little() {
        let mut chunk = ChunkLen::default();
        assert_eq!(lens(&mut chunk, 60.0, 250.0), [8, 1, 1, 1, 1, 1]);
        chunk.begin();
        assert_eq!(chunk.get(8), 8, "each prompt measures it again");
    }
}
