//! The walk without a filter, and several such walks taking turns on one core.
//!
//! A hop has two halves: collect the neighbours of a node, then compute their distances. Each half
//! begins with memory that the end of the other one asked for. A search alone does what little it
//! can in between; searches that take turns give the memory the time of the others' halves.

use super::{Mode, Phase, SearchTask};
use crate::directory::SlotDirectory;
use crate::search::descent::{absorb, prefetch_next};
use crate::search::scratch::Scratch;
use crate::search::task::rescore::lowest;
use crate::search::{Hit, SearchRequest, SearchStats};
use crate::view::VectorView;

impl SearchTask<'_> {
    /// Expands candidates until the budget or the walk is at its end.
    pub(super) fn plain_steps(&mut self, end: u64) {
        while self.scratch.walker.work() < end && self.collect_hop() {
            self.compute_hop();
        }
    }

    /// First half of a hop: collects the neighbours of the nearest candidate. False when the walk
    /// is through.
    fn collect_hop(&mut self) -> bool {
        let bound = self.walk_bound();
        let Scratch { walker, pool, query, .. } = &mut *self.scratch;
        let next = pool.peek().filter(|&(at, node)| {
            // Even when better rows are known from the scan, the walk goes on until it has
            // settled.
            let settled = (self.request.k as usize).max(self.ef / 2);
            at < settled || node.distance() <= bound || lowest(self.view, query, node, 1.0) <= bound
        });
        let Some((at, node)) = next else {
            self.end_walk();
            return false;
        };
        pool.mark(at);
        walker.gather(self.view, node.slot(), 0);
        true
    }

    /// Second half: computes the distances of what was collected and asks for the links of the
    /// candidate that is nearest now.
    fn compute_hop(&mut self) {
        let Scratch { walker, pool, query, .. } = &mut *self.scratch;
        prefetch_next(self.view, pool);
        walker.evaluate(self.view, query);
        absorb(self.view, walker, pool);
    }

    /// One half of a hop of the walk, or a small step of any other phase; false when done.
    fn turn(&mut self) -> bool {
        if self.phase != Phase::Walk || self.mode != Mode::Plain {
            return self.step(1).is_pending();
        }
        if self.is_collected {
            self.is_collected = false;
            self.compute_hop();
            prefetch_next(self.view, &mut self.scratch.pool);
        } else {
            self.is_collected = self.collect_hop();
            self.scratch.walker.prefetch_rows(self.view);
        }
        true
    }
}

impl VectorView {
    /// Many searches on one core, as many at a time as there are scratches, in turns: the memory
    /// of each is fetched while the others compute. The hits are those of each search alone.
    ///
    /// Queries come with a key, and `give` gets the key of a search that ended, its hits and what
    /// it cost, in the order in which they end. The caller holds a pin taken before the views.
    /// Panics: wrong dimension (a caller bug). Cost: as the searches one after the other, without
    /// most of the waiting; four at a time hide the latency of memory, many more push each other
    /// out of the caches.
    pub fn search_many<'a, Key>(
        &'a self,
        directory: &'a SlotDirectory,
        queries: impl IntoIterator<Item = (Key, &'a [f32], SearchRequest<'a>)>,
        scratches: &'a mut [Scratch],
        hits: &mut Vec<Hit>,
        mut give: impl FnMut(Key, &[Hit], SearchStats),
    ) {
        let mut queries = queries.into_iter();
        let mut begin = |scratch| {
            let (key, query, request) = queries.next()?;
            Some((key, self.start(directory, query, request, scratch)))
        };
        let mut tasks: Vec<_> = scratches.iter_mut().map_while(&mut begin).collect();
        let mut turn = 0;
        while !tasks.is_empty() {
            turn = if turn < tasks.len() { turn } else { 0 };
            if tasks[turn].1.turn() {
                turn += 1;
                continue;
            }
            let (key, mut task) = tasks.swap_remove(turn);
            let stats = task.take_hits(hits);
            give(key, hits, stats);
            tasks.extend(begin(task.scratch));
        }
    }
}
