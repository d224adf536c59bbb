//! Where a step may start when a model remembers more than its KV cache.
//!
//! Principal type: [`StepOrder`]. Must not know what is remembered.

use crate::bail;
use crate::error::Result;

/// Holds recurrent models to steps that follow each other: their states hold the whole past and cannot go back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepOrder {
    recurrent: bool,
    /// Where the last whole step ended; 0 when there was none, or when one was cut off and left states half way.
    end: usize,
}

impl StepOrder {
    /// For a graph with recurrent states, or without.
    pub(crate) fn new(recurrent: bool) -> Self {
        Self { recurrent, end: 0 }
    }

    /// A step at `pos` begins.
    /// # Errors
    /// `Internal` when it does not follow the last whole step, nor start anew: the session's mistake.
    pub(crate) fn begin(&mut self, pos: usize) -> Result<()> {
        if self.recurrent && pos != 0 && pos != self.end {
            bail!(
                Internal,
                "a step at position {pos} of a recurrent model whose state stands at {}; start at 0",
                self.end
            );
        }
        self.end = 0;
        Ok(())
    }

    /// The step that began is done, up to position `end`.
    pub(crate) fn finish(&mut self, end: usize) {
        self.end = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn recurrent_steps_follow_each_other_or_start_anew() {
        let mut order = StepOrder::new(true);
        assert_eq!(order.begin(3).unwrap_err().code(), ErrorCode::Internal);
        order.begin(0).unwrap();
        order.finish(5);
        for pos in [4, 6] {
            assert_eq!(order.begin(pos).unwrap_err().code(), ErrorCode::Internal);
        }
        order.begin(5).unwrap();
        // Cut off: what the states hold now is neither 5 nor 7.
        assert!(order.begin(5).is_err() && order.begin(7).is_err());
        order.begin(0).unwrap();
    }

    #[test]
    fn caches_by_position_go_anywhere() {
        let mut order = StepOrder::new(false);
        for pos in [7, 3, 0] {
            order.begin(pos).unwrap();
        }
    }
}
