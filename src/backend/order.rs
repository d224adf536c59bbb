//! Where a step may start when a model remembers more, or less, than its KV cache.
//!
//! Principal type: [`StepOrder`]. Must not know what is remembered.

use super::{ModelPlan, REWIND};
use crate::bail;
use crate::error::Result;

/// Holds recurrent models to steps that follow each other: their states hold the whole past and cannot go back. And
/// holds models with windows to what their caches have not forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepOrder {
    recurrent: bool,
    /// How far back a step may start from where positions were written, where that matters.
    rewind: Option<usize>,
    /// Where the last whole step ended; 0 when there was none, or when one was cut off and left states half way.
    end: usize,
    /// Positions before this have been written since the last start at 0, whether their steps were done or not.
    written: usize,
}

impl StepOrder {
    /// For the graph of `plan`.
    pub(crate) fn of(plan: &ModelPlan) -> Self {
        let rewind = plan.forgets().then_some(plan.n_batch + REWIND);
        Self { rewind, ..Self::new(!plan.graph.states.is_empty()) }
    }

    /// For a graph with recurrent states, or without, and no windows.
    pub(crate) fn new(recurrent: bool) -> Self {
        Self { recurrent, rewind: None, end: 0, written: 0 }
    }

    /// For a backend that forgets what lies `rewind` positions back.
    #[cfg(test)]
    pub(crate) fn forgetting(rewind: usize) -> Self {
        Self { rewind: Some(rewind), ..Self::new(false) }
    }

    /// The first position but 0 that is not forgotten.
    pub(crate) fn earliest(&self) -> usize {
        self.rewind.map_or(0, |rewind| self.written.saturating_sub(rewind))
    }

    /// A step at positions `pos..end` begins.
    /// # Errors
    /// `Internal` when it does not follow the last whole step of a recurrent model, when it goes back behind what is
    /// forgotten, nor starts anew: the session's mistake.
    pub(crate) fn begin(&mut self, pos: usize, end: usize) -> Result<()> {
        if self.recurrent && pos != 0 && pos != self.end {
            bail!(
                Internal,
                "a step at position {pos} of a recurrent model whose state stands at {}; start at 0",
                self.end
            );
        }
        if pos != 0 && pos < self.earliest() {
            bail!(
                Internal,
                "a step at position {pos}, but what comes before {} is forgotten; start at 0",
                self.earliest()
            );
        }
        self.end = 0;
        self.written = if pos == 0 { end } else { self.written.max(end) };
        Ok(())
    }

    /// Steps up to position `end` begin behind the one that began last.
    pub(crate) fn go_on(&mut self, end: usize) {
        self.written = self.written.max(end);
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
        assert_eq!(order.begin(3, 5).unwrap_err().code(), ErrorCode::Internal);
        order.begin(0, 5).unwrap();
        order.finish(5);
        for pos in [4, 6] {
            assert_eq!(order.begin(pos, 7).unwrap_err().code(), ErrorCode::Internal);
        }
        order.begin(5, 7).unwrap();
        // Cut off: what the states hold now is neither 5 nor 7.
        assert!(order.begin(5, 7).is_err() && order.begin(7, 9).is_err());
        order.begin(0, 1).unwrap();
    }

    #[test]
    fn caches_by_position_go_anywhere() {
        let mut order = StepOrder::new(false);
        for pos in [7, 3, 0] {
            order.begin(pos, pos + 1).unwrap();
        }
    }

    #[test]
    fn caches_that_forget_go_back_a_little_or_start_anew() {
        let mut order = StepOrder::forgetting(100);
        order.begin(0, 90).unwrap();
        order.begin(1, 90).unwrap();
        order.begin(90, 130).unwrap();
        order.go_on(150);
        assert_eq!(order.earliest(), 50);
        assert_eq!(order.begin(49, 50).unwrap_err().code(), ErrorCode::Internal);
        // What was written up to 150 is still what has been overwritten.
        order.begin(50, 60).unwrap();
        assert_eq!(order.earliest(), 50);
        order.begin(0, 5).unwrap();
        assert_eq!(order.earliest(), 0);
    }
}
