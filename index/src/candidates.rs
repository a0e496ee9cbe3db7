//! What the search phase of an insert found, to be linked by the home core.

use crate::limits::LEVEL_MAX;
use crate::search::pool::Neighbour;

/// Nearest nodes per layer for one slot that waits to be linked. Reusable; `Send`.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Nearest first.
    pub(crate) levels: [Vec<Neighbour>; LEVEL_MAX + 1],
    /// Distances computed by the search.
    pub(crate) evaluations: u64,
}

impl Candidates {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Distances computed to find these.
    #[must_use]
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    pub(crate) fn clear(&mut self) {
        self.levels.iter_mut().for_each(Vec::clear);
        self.evaluations = 0;
    }
}
