//! The walk on one layer, and the search phase of an insert that uses it.
//!
//! Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs", algorithms 2 and 5. Departures: one sorted array
//! instead of two heaps; the neighbours of a node are first collected, then computed together.

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

/// Walks one layer from what the pool holds until every candidate kept has been expanded.
pub(crate) fn walk(
    view: &VectorView,
    query: &[f32],
    walker: &mut Walker,
    pool: &mut Pool,
    level: usize,
) {
    while let Some((at, node)) = pool.peek() {
        pool.mark(at);
        walker.gather(view, node.slot(), level);
        prefetch_next(view, pool);
        walker.evaluate(view, query);
        absorb(view, walker, pool);
    }
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

impl VectorView {
    /// The search phase of an insert: finds whom `slot` should be linked with. Any core; read only.
    ///
    /// The caller holds a pin until the candidates are linked. The result depends on the graph as it
    /// is now: candidates of several slots computed before the first of them is linked depend on the
    /// batch size alone, not on how many threads computed them.
    ///
    /// Panics: the slot holds no vector (a caller bug). Cost: an ordinary search with
    /// `ef_construction` candidates; no allocation once the buffers have grown.
    pub fn candidates(&self, slot: Slot, scratch: &mut Scratch, out: &mut Candidates) {
        assert!(self.holds(slot), "slot {slot} holds a vector");
        out.clear();
        // Read before the entry: links made in between are then compared again, never missed.
        out.sequence = self.sequence.load(core::sync::atomic::Ordering::Acquire);
        let Some(entry) = self.entry() else { return };
        let query = self.row(slot);
        let Scratch { walker, pool, .. } = scratch;
        walker.begin(self);
        let top = self.level_of(slot).min(entry.level);
        let mut nearest = descend(self, query, walker, entry, top);
        for level in (0..=top).rev() {
            walker.forget();
            pool.reset(usize::from(self.params.ef_construction));
            walker.visit(nearest.slot());
            pool.insert(nearest.unmarked());
            walk(self, query, walker, pool, level);
            out.levels[level].extend(pool.entries().iter().map(|found| found.unmarked()));
            if let Some(first) = out.levels[level].first() {
                nearest = *first;
            }
        }
        out.evaluations = walker.evaluations;
    }
}
