//! The walk without a filter, and several such walks taking turns on one core.
//!
//! A hop has two halves: collect the neighbours of a node, then compute their distances. Each half
//! begins with memory that the end of the other one asked for. A search alone does what little it
//! can in between; searches that take turns give the memory the time of the others' halves.

use super::{Mode, Phase, SearchTask};
use crate::directory::SlotDirectory;
use crate::search::descent::{absorb, prefetch_next};
use crate::search::pool::Pool;
use crate::search::scratch::Scratch;
use crate::search::task::rescore::lowest;
use crate::search::{Hit, SearchRequest, SearchStats};
use crate::view::VectorView;

/// Places behind the `k`-th that are watched with it: hits come from there as well, because
/// estimates are ranked again.
const WATCHED_BEHIND: usize = 5;

/// Expansions without news that any walk allows itself, ...
const PATIENCE_MIN: usize = 8;

/// ... and for each ten candidates of its pool. With 8 at most one hit in ten thousand is lost, and
/// 3, 7 and 10 % of the distances are saved at pools of 200, 400 and 800 (120,000 embeddings of 384
/// components; 2, 5 and 10 % on 373,120 of 128). With 6.5 it is 11, 18 and 23 %, for up to nine
/// hits in ten thousand.
const PATIENCE_TENTHS: usize = 8;

/// Ends a walk whose nearest candidates no longer change: what a large pool still holds then is
/// far, and leads to what is farther.
///
/// Source: the "patience" of Teofili and Lin, "Patience in Proximity" (2025), with the distance of
/// one place watched instead of the set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    watched: f32,
    idle: usize,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { watched: f32::INFINITY, idle: 0 }
    }

    /// Called for each expansion; true when there was no news for too long.
    #[inline]
    fn is_over(&mut self, pool: &Pool, k: usize, ef: usize) -> bool {
        let Some(watched) = pool.entries().get(k + WATCHED_BEHIND) else { return false };
        let distance = watched.distance();
        self.idle = if distance < self.watched { 0 } else { self.idle + 1 };
        self.watched = distance;
        self.idle > PATIENCE_MIN + ef * PATIENCE_TENTHS / 10
    }
}

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
        if self.patience.is_over(pool, self.request.k as usize, self.ef) {
            self.end_walk();
            return false;
        }
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
