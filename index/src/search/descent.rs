//! The walk on one layer, and the search phase of an insert that uses it.
//!
//! Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs", algorithms 2 and 5. Departures: one sorted array
//! instead of two heaps; the neighbours of a node are first collected, then computed together.

use core::cmp::Reverse;
use core::task::Poll;

use crate::Slot;
use crate::candidates::Candidates;
use crate::directory::SlotDirectory;
use crate::search::pool::{Neighbour, Pool};
use crate::search::prepared::Prepared;
use crate::search::scratch::{Scratch, Walker};
use crate::view::{Entry, VectorView};

/// Greedy descent from the entry to the layer above `floor`; returns the nearest node found.
///
/// No node is computed twice: one that was is farther than the nearest, on every layer. All of them
/// stand in `walker.descended`, and are marked as visited until the walker forgets.
pub(crate) fn descend(
    view: &VectorView,
    query: &Prepared,
    walker: &mut Walker,
    entry: Entry,
    floor: usize,
) -> Neighbour {
    walker.descended.clear();
    walker.fresh.clear();
    walker.visit(entry.slot);
    walker.fresh.push(entry.slot);
    walker.evaluate(view, query);
    let mut best = Neighbour::new(walker.distances[0], entry.slot);
    walker.descended.push(best);
    for level in (floor + 1..=entry.level).rev() {
        loop {
            walker.gather(view, best.slot(), level);
            walker.evaluate(view, query);
            let pairs = walker.fresh.iter().zip(&walker.distances);
            let found = pairs.map(|(&slot, &distance)| Neighbour::new(distance, slot));
            let before = walker.descended.len();
            walker.descended.extend(found);
            match walker.descended[before..].iter().min() {
                Some(&nearest) if nearest < best => best = nearest,
                _ => break,
            }
        }
    }
    best
}

/// Walks one layer from what the pool holds until every candidate kept has been expanded (true) or
/// the walker has computed `end` distances (false).
pub(crate) fn walk(
    view: &VectorView,
    query: &Prepared,
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

/// As [`walk`], through dead nodes as well, but only live ones are kept, in `passed`: the walk goes
/// on until as many as wanted are found or no node is left, however many dead ones lie between.
/// The frontier is a heap: it may grow as large as the dead region.
fn walk_to_live(
    view: &VectorView,
    directory: &SlotDirectory,
    scratch: &mut Scratch,
    level: usize,
    end: u64,
) -> bool {
    let Scratch { walker, passed, frontier, query, .. } = scratch;
    while let Some(&Reverse(node)) = frontier.peek() {
        if node.distance() > passed.worst() {
            break;
        }
        if walker.evaluations >= end {
            return false;
        }
        frontier.pop();
        walker.gather(view, node.slot(), level);
        walker.evaluate(view, query);
        for (&slot, &distance) in walker.fresh.iter().zip(&walker.distances) {
            if distance > passed.worst() {
                continue;
            }
            let found = Neighbour::new(distance, slot);
            frontier.push(Reverse(found));
            if !directory.is_dead(slot) {
                passed.insert(found);
            }
        }
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
    directory: &'a SlotDirectory,
    scratch: &'a mut Scratch,
    out: &'a mut Candidates,
    /// Some slot was dead when the task began: candidates have to be told from the dead.
    skips_dead: bool,
    /// Layer being walked; none when done or when the graph was empty.
    level: Option<usize>,
}

impl VectorView {
    /// The search phase of an insert: finds whom `slot` should be linked with. Any core; read only.
    ///
    /// The caller holds a pin until the candidates are linked. The result depends on the graph as
    /// it is now: candidates of several slots computed before the first of them is linked depend on
    /// the batch size alone, not on how many threads computed them.
    ///
    /// Dead nodes are walked through and never candidates. A slot that is dead, or holds no vector,
    /// has no candidates. Cost: an ordinary search with `ef_construction` candidates, and a
    /// distance for each dead node on the way; no allocation once the buffers have grown.
    pub fn candidates(
        &self,
        directory: &SlotDirectory,
        slot: Slot,
        scratch: &mut Scratch,
        out: &mut Candidates,
    ) {
        let mut task = self.start_candidates(directory, slot, scratch, out);
        while task.step(u64::MAX).is_pending() {}
    }

    /// The same as a task that the caller steps, so that a core can do other work in between.
    pub fn start_candidates<'a>(
        &'a self,
        directory: &'a SlotDirectory,
        slot: Slot,
        scratch: &'a mut Scratch,
        out: &'a mut Candidates,
    ) -> CandidatesTask<'a> {
        out.clear();
        // A slot may die while it waits for its search; nobody will link it then. One that dies
        // after this line keeps its row as long as the caller's pin is held.
        let is_wanted = self.holds(slot) && !directory.is_dead(slot);
        let entry = self.entry().filter(|_| is_wanted);
        let skips_dead = directory.dead_count() > 0;
        scratch.walker.begin(self);
        let mut task =
            CandidatesTask { view: self, directory, scratch, out, skips_dead, level: None };
        if let Some(entry) = entry {
            let top = self.level_of(slot).min(entry.level);
            let Scratch { walker, query, .. } = &mut *task.scratch;
            self.query_of(slot, query);
            let nearest = descend(self, query, walker, entry, top);
            task.begin_layer(nearest);
            task.level = Some(top);
        }
        task
    }
}

impl CandidatesTask<'_> {
    /// Starts the walk of a layer from one node.
    fn begin_layer(&mut self, start: Neighbour) {
        let start = start.unmarked();
        let wanted = usize::from(self.view.params.ef_construction);
        let Scratch { walker, pool, passed, frontier, .. } = &mut *self.scratch;
        walker.forget();
        walker.visit(start.slot());
        pool.reset(wanted);
        pool.insert(start);
        if self.skips_dead {
            frontier.clear();
            frontier.push(Reverse(start));
            passed.reset(wanted);
            if !self.directory.is_dead(start.slot()) {
                passed.insert(start);
            }
        }
    }

    /// Works for about `budget` distances. Ready when the candidates are complete.
    pub fn step(&mut self, budget: u64) -> Poll<()> {
        let end = self.scratch.walker.evaluations.saturating_add(budget);
        while let Some(level) = self.level {
            let is_through = if self.skips_dead {
                walk_to_live(self.view, self.directory, self.scratch, level, end)
            } else {
                let Scratch { walker, pool, query, .. } = &mut *self.scratch;
                walk(self.view, query, walker, pool, level, end)
            };
            if !is_through {
                return Poll::Pending;
            }
            let Scratch { pool, passed, .. } = &*self.scratch;
            // The node that the layer was entered by, when nothing on it is alive.
            let start = pool.entries().first().copied();
            let walked = if self.skips_dead { passed.entries() } else { pool.entries() };
            let found = &mut self.out.levels[level];
            found.extend(walked.iter().map(|found| found.unmarked()));
            let nearest = found.first().copied().or(start);
            self.level = level.checked_sub(1);
            if let (Some(_), Some(nearest)) = (self.level, nearest) {
                self.begin_layer(nearest);
            }
        }
        self.out.evaluations = self.scratch.walker.evaluations;
        Poll::Ready(())
    }
}
