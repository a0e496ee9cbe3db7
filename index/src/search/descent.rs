//! The walk on one layer, and the search phase of an insert that uses it.
//!
//! Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs", algorithms 2 and 5. Departures: one sorted array
//! instead of two heaps; the neighbours of a node are first collected, then computed together.

use core::task::Poll;

use crate::Slot;
use crate::candidates::Candidates;
use crate::search::pool::{Neighbour, Pool};
use crate::search::scratch::{Scratch, Walker};
use crate::view::{Entry, VectorView};

/// Greedy descent from the entry to the layer above `floor`; returns the nearest node found.
pub(crate) fn descend(
    view: &VectorView,
    query: &[f32],
    walker: &mut Walker,
    entry: Entry,
    floor: usize,
) -> Neighbour {
    walker.fresh.clear();
    walker.fresh.push(entry.slot);
    walker.evaluate(view, query);
    let mut best = Neighbour::new(walker.distances[0], entry.slot);
    for level in (floor + 1..=entry.level).rev() {
        loop {
            walker.gather_all(view, best.slot(), level);
            walker.evaluate(view, query);
            let nearest = walker
                .fresh
                .iter()
                .zip(&walker.distances)
                .map(|(&slot, &distance)| Neighbour::new(distance, slot))
                .min();
            match nearest {
                Some(nearest) if nearest < best => best = nearest,
                _ => break,
            }
        }
    }
    best
}

/// Walks one layer from what the pool holds until every candidate kept has been expanded (true) or
/// the walker has computed `end` distances (false).
fn walk(
    view: &VectorView,
    query: &[f32],
    walker: &mut Walker,
    pool: &mut Pool,
    level: usize,
    end: u64,
) -> bool {
    while let Some((at, node)) = pool.peek() {
        if walker.evaluations >= end {
            return false;
        }
        pool.mark(at);
        walker.gather(view, node.slot(), level);
        prefetch_next(view, pool);
        walker.evaluate(view, query);
        absorb(view, walker, pool);
    }
    true
}

/// Asks for the links of the candidate that comes next unless a nearer one is found.
#[inline]
pub(crate) fn prefetch_next(view: &VectorView, pool: &mut Pool) {
    if let Some((_, next)) = pool.peek() {
        view.prefetch_links(next.slot());
    }
}

/// Puts the computed neighbours into the pool.
#[inline]
pub(crate) fn absorb(view: &VectorView, walker: &Walker, pool: &mut Pool) {
    let mut worst = pool.worst();
    for (&slot, &distance) in walker.fresh.iter().zip(&walker.distances) {
        if distance > worst {
            continue;
        }
        let cursor = pool.cursor();
        if pool.insert(Neighbour::new(distance, slot)).is_some_and(|at| at <= cursor) {
            view.prefetch_links(slot);
        }
        worst = pool.worst();
    }
}

/// The search phase of an insert as a resumable task.
///
/// Holds its view and its scratch until it is done; the caller holds the pin.
#[derive(Debug)]
pub struct CandidatesTask<'a> {
    view: &'a VectorView,
    slot: Slot,
    scratch: &'a mut Scratch,
    out: &'a mut Candidates,
    /// Layer being walked; none when done or when the graph was empty.
    level: Option<usize>,
}

impl VectorView {
    /// The search phase of an insert: finds whom `slot` should be linked with. Any core; read only.
    ///
    /// The caller holds a pin until the candidates are linked. The result depends on the graph as it
    /// is now: candidates of several slots computed before the first of them is linked depend on the
    /// batch size alone, not on how many threads computed them.
    ///
    /// A slot that holds no vector, or no longer, has no candidates. Cost: an ordinary search with
    /// `ef_construction` candidates; no allocation once the buffers have grown.
    pub fn candidates(&self, slot: Slot, scratch: &mut Scratch, out: &mut Candidates) {
        let mut task = self.start_candidates(slot, scratch, out);
        while task.step(u64::MAX).is_pending() {}
    }

    /// The same as a task that the caller steps, so that a core can do other work in between.
    pub fn start_candidates<'a>(
        &'a self,
        slot: Slot,
        scratch: &'a mut Scratch,
        out: &'a mut Candidates,
    ) -> CandidatesTask<'a> {
        out.clear();
        // Read before the entry: links made in between are then compared again, never missed.
        out.sequence = self.sequence.load(core::sync::atomic::Ordering::Acquire);
        // A slot may die while it waits for its search; nobody will link it then. One that dies
        // after this line keeps its row as long as the caller's pin is held.
        let entry = self.entry().filter(|_| self.holds(slot));
        scratch.walker.begin(self);
        let mut level = None;
        if let Some(entry) = entry {
            let top = self.level_of(slot).min(entry.level);
            let nearest = descend(self, self.row(slot), &mut scratch.walker, entry, top);
            begin_layer(self, scratch, nearest);
            level = Some(top);
        }
        CandidatesTask { view: self, slot, scratch, out, level }
    }
}

/// Starts the walk of a layer from one node.
fn begin_layer(view: &VectorView, scratch: &mut Scratch, nearest: Neighbour) {
    scratch.walker.forget();
    scratch.pool.reset(usize::from(view.params.ef_construction));
    scratch.walker.visit(nearest.slot());
    scratch.pool.insert(nearest.unmarked());
}

impl CandidatesTask<'_> {
    /// Works for about `budget` distances. Ready when the candidates are complete.
    pub fn step(&mut self, budget: u64) -> Poll<()> {
        let end = self.scratch.walker.evaluations.saturating_add(budget);
        let query = self.view.row(self.slot);
        while let Some(level) = self.level {
            let Scratch { walker, pool, .. } = &mut *self.scratch;
            if !walk(self.view, query, walker, pool, level, end) {
                return Poll::Pending;
            }
            let found = &mut self.out.levels[level];
            found.extend(pool.entries().iter().map(|found| found.unmarked()));
            self.level = level.checked_sub(1);
            if let (Some(_), Some(&nearest)) = (self.level, found.first()) {
                begin_layer(self.view, self.scratch, nearest);
            }
        }
        self.out.evaluations = self.scratch.walker.evaluations;
        Poll::Ready(())
    }
}
