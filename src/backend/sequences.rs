//! What each sequence has for itself.
//!
//! Principal type: [`Sequences`], which stands for what the selected one has. Must not know what that is.

use std::ops::{Deref, DerefMut};

/// One of each sequence that was selected so far; it derefs to that of the one selected now.
#[derive(Debug)]
pub(crate) struct Sequences<T> {
    all: Vec<T>,
    selected: usize,
}

impl<T> Sequences<T> {
    /// Of the first sequences, at least one; the very first is selected.
    pub(crate) fn new(all: Vec<T>) -> Self {
        Self { all, selected: 0 }
    }

    /// Selects `sequence`; it and those before it that are not there are made by `make`.
    pub(crate) fn select(&mut self, sequence: usize, mut make: impl FnMut() -> T) {
        while self.all.len() <= sequence {
            self.all.push(make());
        }
        self.selected = sequence;
    }

    /// The number of the selected one.
    pub(crate) fn selected(&self) -> usize {
        self.selected
    }

    /// Those of all sequences.
    pub(crate) fn all(&self) -> &[T] {
        &self.all
    }

    /// Those of all sequences, to change them.
    pub(crate) fn all_mut(&mut self) -> &mut [T] {
        &mut self.all
    }
}

impl<T> Deref for Sequences<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.all[self.selected]
    }
}

impl<T> DerefMut for Sequences<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.all[self.selected]
    }
}
