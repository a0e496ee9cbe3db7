//! With codes: the distances of the best plane for what the estimates promise.
//!
//! Candidates are taken in the order of their estimates, in blocks. A candidate whose estimate
//! exceeds the k-th distance found so far by more than the margin of its estimate cannot become a
//! hit and is passed over; a block without any other ends the work.

use super::{Mode, Phase, SearchTask, passes};
use crate::limits::{RESCORE_BLOCK, RESCORE_FIRST_MAX};
use crate::search::pool::{Neighbour, Pool};
use crate::search::prepared::Prepared;
use crate::search::scratch::{Scratch, Walker};
use crate::view::VectorView;

/// A walk finds less than all anyway: one margin is enough.
const WALK_MARGIN: f32 = 1.0;

impl SearchTask<'_> {
    /// Rescores one block of candidates from place `at` of the walk's result.
    pub(super) fn rescore_step(&mut self, mut at: usize) {
        let bound = self.walk_bound();
        let Scratch { walker, pool, passed, best, query, .. } = &mut *self.scratch;
        let found = if self.mode == Mode::Collect { passed.entries() } else { pool.entries() };
        let missing = best.capacity() - best.entries().len();
        let block = missing.clamp(RESCORE_BLOCK, RESCORE_FIRST_MAX);
        // Candidates that may not be hits are no sign that the others are too far.
        let mut is_beyond = false;
        walker.begin_block(block);
        while at < found.len() && walker.fresh.len() < block && !is_beyond {
            let candidate = found[at];
            at += 1;
            if !passes(self.directory, self.request.filter, candidate.slot()) {
                continue;
            }
            is_beyond = lowest(self.view, query, candidate, WALK_MARGIN) > bound;
            if !is_beyond {
                walker.fresh.push(candidate.slot());
            }
        }
        let is_through = at == found.len() || is_beyond;
        walker.rescore(self.view, query);
        keep(walker, best);
        self.phase = if is_through { Phase::Done } else { Phase::Rescore { at } };
    }
}

/// What the distance of a row may be in truth when it was underestimated by `margins` margins.
#[inline]
pub(super) fn lowest(view: &VectorView, query: &Prepared, row: Neighbour, margins: f32) -> f32 {
    let Some(codec) = &view.planes.codec else { return row.distance() };
    let factors = view.planes.factor_row(row.slot());
    row.distance() - margins * codec.margin(&query.code, factors, row.distance())
}

/// Puts the computed rows among the results. What was linked meanwhile is found by the scan and by
/// the walk, with one distance.
pub(super) fn keep(walker: &Walker, best: &mut Pool) {
    let mut worst = best.worst();
    for (&slot, &distance) in walker.fresh.iter().zip(&walker.distances) {
        if distance <= worst {
            best.insert_once(Neighbour::new(distance, slot));
            worst = best.worst();
        }
    }
}
