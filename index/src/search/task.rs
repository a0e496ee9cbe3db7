//! One search as a resumable task: scan of the tail, descent, walk; or the exact scan. With codes
//! both compute the distances of what they find again.

mod plain;
mod rescore;
mod scan;

use core::sync::atomic::Ordering;
use core::task::Poll;

use crate::bitmap::SlotBitmap;
use crate::directory::SlotDirectory;
use crate::distance::{from_raw, to_raw};
use crate::limits::EF_MAX;
use crate::search::descent::{absorb, descend, prefetch_next};
use crate::search::filtered::{Plan, Prices, gather_seeds};
use crate::search::pool::{Neighbour, Pool};
use crate::search::scratch::{Scratch, Walker};
use crate::search::task::plain::Patience;
use crate::search::task::rescore::lowest;
use crate::search::{Hit, SearchRequest, SearchStats, Strategy as Mode};
use crate::view::{Entry, VectorView};

/// Factor by which the candidate pool grows when too few hits passed.
const WIDEN_FACTOR: usize = 4;

/// Where a search stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Scanning the words of a slot set.
    Scan { word: usize, end: usize },
    /// Going down to layer 0.
    Descend,
    /// Walking layer 0.
    Walk,
    /// Computing the distances of what the walk found again, from this place on.
    Rescore { at: usize },
    /// Nothing left to do.
    Done,
}

/// A search that can be interrupted between steps.
///
/// Holds its views and its scratch for the whole search; the caller holds the pin. A core that
/// yields between steps gives each search in flight a scratch of its own.
#[derive(Debug)]
pub struct SearchTask<'a> {
    view: &'a VectorView,
    directory: &'a SlotDirectory,
    request: SearchRequest<'a>,
    scratch: &'a mut Scratch,
    phase: Phase,
    mode: Mode,
    /// How a filtered walk goes; chosen when the descent has arrived for the first time.
    plan: Option<Plan>,
    prices: Prices,
    /// Where walks start: read before the limit of the walk, so it lies below it. The pin keeps the
    /// node walkable even when it leaves the graph meanwhile.
    entry: Option<Entry>,
    /// Every passing row is scanned instead of the tail alone.
    exact: bool,
    /// The neighbours of a node are collected and their distances not computed yet.
    is_collected: bool,
    /// When a walk without a filter may end early.
    patience: Patience,
    /// Candidates kept by the walk.
    ef: usize,
    /// Rows that could be hits.
    passing: u64,
    /// Rows that the index holds.
    present: u64,
    stats: SearchStats,
}

impl VectorView {
    /// The `k` nearest live slots, nearest first, ties by slot; runs to the end.
    ///
    /// `query` is `[dims]`, finite, any length of the vector under cosine. `hits` is cleared first.
    /// The caller holds a pin taken before the views. Panics: wrong dimension (a caller bug).
    /// Cost: about `12 ef` distances, or one per passing row when those are few; no allocation once
    /// the buffers have grown.
    pub fn search(
        &self,
        directory: &SlotDirectory,
        query: &[f32],
        request: SearchRequest<'_>,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> SearchStats {
        let mut task = self.start(directory, query, request, scratch);
        while task.step(u64::MAX).is_pending() {}
        task.finish(hits)
    }

    /// The same as a task that the caller steps, so that a core can do other work in between.
    ///
    /// Panics: wrong dimension (a caller bug).
    pub fn start<'a>(
        &'a self,
        directory: &'a SlotDirectory,
        query: &[f32],
        request: SearchRequest<'a>,
        scratch: &'a mut Scratch,
    ) -> SearchTask<'a> {
        assert_eq!(query.len(), self.params.dims as usize, "the query has the index's dimension");
        self.prepare(query, &mut scratch.query);
        let entry = self.entry();
        scratch.walker.begin(self);
        let k = request.k as usize;
        scratch.best.reset(k);
        let present = u64::from(self.present_count.load(Ordering::Acquire));
        let live = u64::from(directory.live_count()).min(present);
        let passing = request.filter.map_or(live, |set| u64::from(set.len()).min(present));
        let dead = u64::from(directory.dead_count());
        let asked = request.ef.max(request.k).clamp(1, EF_MAX) as usize;
        // Dead nodes take places in the pool; make room for as many as are expected there.
        let spread = (dead * asked as u64 / live.max(1)).min(3 * asked as u64) as usize;
        let ef = asked + if request.filter.is_none() { spread } else { 0 };
        let mut task = SearchTask {
            view: self,
            directory,
            request,
            scratch,
            phase: Phase::Done,
            mode: Mode::Plain,
            plan: None,
            prices: Prices::of(self),
            entry,
            exact: false,
            is_collected: false,
            patience: Patience::new(),
            ef,
            passing,
            present,
            stats: SearchStats::default(),
        };
        task.exact = entry.is_none() || task.scan_is_cheaper();
        task.begin_scan();
        task
    }
}

impl SearchTask<'_> {
    /// Works for about `budget` distances. Ready when the hits can be taken.
    pub fn step(&mut self, budget: u64) -> Poll<()> {
        let end = self.scratch.walker.work().saturating_add(budget);
        while self.phase != Phase::Done {
            if self.scratch.walker.work() >= end {
                return Poll::Pending;
            }
            match self.phase {
                Phase::Scan { word, end } => self.scan_step(word, end),
                Phase::Descend => self.descend_step(),
                Phase::Walk if self.mode == Mode::Plain => self.plain_steps(end),
                Phase::Walk => self.walk_steps(end),
                Phase::Rescore { at } => self.rescore_step(at),
                Phase::Done => {}
            }
        }
        Poll::Ready(())
    }

    /// Writes the hits (`hits` is cleared first) and says what they cost.
    pub fn finish(mut self, hits: &mut Vec<Hit>) -> SearchStats {
        self.take_hits(hits)
    }

    fn take_hits(&mut self, hits: &mut Vec<Hit>) -> SearchStats {
        hits.clear();
        let (metric, bound) = (self.view.params.metric, self.asked_bound());
        self.for_each_result(|found| {
            if found.distance() <= bound {
                let distance = from_raw(metric, found.distance());
                hits.push(Hit { slot: found.slot(), distance });
            }
        });
        self.stats.evaluations = self.scratch.walker.evaluations;
        self.stats.rescored = self.scratch.walker.rescored;
        self.stats.glanced = self.scratch.walker.glanced;
        self.stats.hops = self.scratch.walker.hops;
        self.stats.exact = self.exact;
        self.stats.strategy = if self.exact { Mode::Scan } else { self.mode };
        self.learn();
        self.stats
    }

    /// Merges scan and walk, nearest first, each slot once, only what may be a hit, at most `k`.
    fn for_each_result(&self, mut give: impl FnMut(Neighbour)) {
        let walked: &[Neighbour] = match (self.exact || self.is_estimating(), self.mode) {
            // With codes the walk's own distances are estimates.
            (true, _) => &[],
            (false, Mode::Plain | Mode::TwoHop | Mode::Scan) => self.scratch.pool.entries(),
            (false, Mode::Collect) => self.scratch.passed.entries(),
        };
        let mut walked = walked
            .iter()
            .map(|found| found.unmarked())
            .filter(|found| passes(self.directory, self.request.filter, found.slot()))
            .peekable();
        let mut scanned = self.scratch.best.entries().iter().copied().peekable();
        let mut last = None;
        let mut left = self.request.k as usize;
        while left > 0 {
            let next = match (walked.peek(), scanned.peek()) {
                (Some(a), Some(b)) if a <= b => walked.next(),
                (Some(_), None) => walked.next(),
                (_, Some(_)) => scanned.next(),
                (None, None) => None,
            };
            let Some(found) = next else { break };
            // Linked while we searched: found by the scan and by the walk, with one distance.
            if last.replace(found) == Some(found) {
                continue;
            }
            give(found);
            left -= 1;
        }
    }

    /// Whether scanning every passing row costs no more than a walk without a filter would.
    fn scan_is_cheaper(&self) -> bool {
        self.passing <= u64::from(self.view.params.flat_cutoff)
            || match self.request.filter {
                None => self.passing <= self.ef as u64,
                Some(_) => self.prices.scan(self.passing) <= self.prices.plain(self.ef as u64),
            }
    }

    fn descend_step(&mut self) {
        let Some(entry) = self.entry else {
            self.phase = Phase::Done;
            return;
        };
        let Scratch { walker, pool, query, .. } = &mut *self.scratch;
        let start = descend(self.view, query, walker, entry, 0);
        if self.mode == Mode::Plain && self.request.filter.is_none() {
            // Every node lies on layer 0 as well: what is known of them is a start, too.
            pool.reset(self.ef);
            self.patience = Patience::new();
            walker.descended.iter().for_each(|&known| {
                pool.insert(known);
            });
            self.phase = Phase::Walk;
            return;
        }
        walker.forget();
        if let (None, Some(filter)) = (self.plan, self.request.filter) {
            let rows = (self.passing, self.present);
            let plan = Plan::choose(self.view, filter, start.slot(), self.ef, rows);
            (self.mode, self.ef) = (plan.strategy, plan.ef);
            self.plan = Some(plan);
            if self.mode == Mode::Scan {
                return self.switch_to_exact();
            }
        }
        self.begin_walk(&[start]);
    }

    /// Starts the walk from some nodes and their distances; filtered ones from seeds as well.
    fn begin_walk(&mut self, starts: &[Neighbour]) {
        let Scratch { pool, passed, walker, .. } = &mut *self.scratch;
        let wide = self.plan.map_or(self.ef, |plan| plan.pool());
        pool.reset(wide.max(self.ef));
        passed.reset(self.ef);
        for start in starts {
            walker.visit(start.slot());
            pool.insert(*start);
            let filter = self.request.filter;
            if self.mode == Mode::Collect && passes(self.directory, filter, start.slot()) {
                passed.insert(*start);
            }
        }
        if let (Mode::TwoHop, Some(filter)) = (self.mode, self.request.filter) {
            gather_seeds(self.view, filter, self.scratch);
            let Scratch { walker, pool, query, .. } = &mut *self.scratch;
            walker.evaluate(self.view, query);
            absorb(self.view, walker, pool);
        }
        self.phase = Phase::Walk;
    }

    /// Expands candidates until the budget or the walk is at its end.
    fn walk_steps(&mut self, end: u64) {
        let bound = self.walk_bound();
        // Even when better rows are known from the scan, the walk goes on until it has settled.
        let settled = (self.request.k as usize).max(self.ef / 2);
        let give_up = self.plan.map_or(u64::MAX, |plan| plan.give_up);
        while self.scratch.walker.work() < end {
            let Scratch { walker, pool, passed, query, .. } = &mut *self.scratch;
            let Some((at, node)) = pool.peek() else { return self.end_walk() };
            let collected = self.mode == Mode::Collect && node.distance() > passed.worst();
            let is_settled = at >= settled && node.distance() > bound;
            if collected || (is_settled && lowest(self.view, query, node, 1.0) > bound) {
                return self.end_walk();
            }
            if give_up != u64::MAX && self.prices.spent(walker) > give_up {
                return self.give_up();
            }
            pool.mark(at);
            match (self.mode, self.request.filter) {
                (Mode::TwoHop, Some(filter)) => {
                    walker.gather_passing(self.view, node.slot(), filter);
                }
                _ => walker.gather(self.view, node.slot(), 0),
            }
            prefetch_next(self.view, pool);
            walker.evaluate(self.view, query);
            match (self.mode, self.request.filter) {
                (Mode::Collect, Some(filter)) => {
                    collect(walker, pool, passed, |slot| {
                        filter.contains(slot) && self.directory.is_live(slot)
                    });
                }
                _ => absorb(self.view, walker, pool),
            }
        }
    }

    /// Nothing farther than this can become a hit.
    fn walk_bound(&self) -> f32 {
        self.scratch.best.worst().min(self.asked_bound())
    }

    /// The raw distance that the caller allows.
    fn asked_bound(&self) -> f32 {
        let asked = self.request.max_distance;
        asked.map_or(f32::INFINITY, |most| to_raw(self.view.params.metric, most))
    }

    /// The walk found nothing more: done, unless too few of its candidates may be hits.
    fn end_walk(&mut self) {
        if self.has_enough() {
            let codes = self.is_estimating();
            self.phase = if codes { Phase::Rescore { at: 0 } } else { Phase::Done };
            return;
        }
        self.stats.widened += 1;
        self.ef *= WIDEN_FACTOR;
        let costs_more = self.prices.plain(self.ef as u64) > self.prices.scan(self.passing);
        if self.plan.is_none() || costs_more || self.ef > EF_MAX as usize {
            return self.switch_to_exact();
        }
        self.scratch.walker.forget();
        self.phase = Phase::Descend;
    }

    /// Whether as many rows as can be asked for passed.
    fn has_enough(&self) -> bool {
        let mut found = 0u64;
        if self.is_estimating() {
            let Scratch { pool, passed, best, .. } = &*self.scratch;
            let walked = if self.mode == Mode::Collect { passed } else { pool }.entries().iter();
            let hits = walked.filter(|row| {
                let slot = row.slot();
                let scanned = !best.entries().is_empty() && best.holds(slot);
                passes(self.directory, self.request.filter, slot) && !scanned
            });
            found = best.entries().len() as u64 + hits.take(self.request.k as usize).count() as u64;
        } else {
            self.for_each_result(|_| found += 1);
        }
        found >= u64::from(self.request.k).min(self.passing)
    }

    /// Whether distances of the walk are estimates.
    #[inline]
    fn is_estimating(&self) -> bool {
        self.view.planes.codec.is_some()
    }

    /// A walk that costs more than it should: collecting goes over to the passing nodes found so
    /// far, a walk over those to the scan.
    fn give_up(&mut self) {
        self.learn();
        let scan = self.prices.scan(self.passing);
        let spent = self.prices.spent(&self.scratch.walker);
        let Some(plan) = self.plan.filter(|plan| plan.strategy == Mode::Collect && spent < scan)
        else {
            return self.switch_to_exact();
        };
        let plan = plan.instead(self.view, scan);
        (self.mode, self.ef) = (plan.strategy, plan.ef);
        self.plan = Some(plan);
        let starts: Vec<Neighbour> = self.scratch.passed.entries().to_vec();
        self.scratch.walker.forget();
        self.begin_walk(&starts);
    }

    /// Lets later searches know what this walk cost.
    fn learn(&self) {
        if let Some(plan) = self.plan.filter(|_| !self.exact) {
            self.view.experience.learn(&plan, self.prices.spent(&self.scratch.walker));
        }
    }

    fn switch_to_exact(&mut self) {
        self.exact = true;
        self.scratch.best.reset(self.request.k as usize);
        self.begin_scan();
    }
}

/// Puts the computed neighbours into the pool, and those that pass into the results; nothing
/// farther than the last result that still counts.
fn collect(walker: &Walker, pool: &mut Pool, passed: &mut Pool, pass: impl Fn(u32) -> bool) {
    for (&slot, &distance) in walker.fresh.iter().zip(&walker.distances) {
        if distance > passed.worst() {
            continue;
        }
        let found = Neighbour::new(distance, slot);
        pool.insert(found);
        if pass(slot) {
            passed.insert(found);
        }
    }
}

#[inline]
fn passes(directory: &SlotDirectory, filter: Option<&SlotBitmap>, slot: u32) -> bool {
    directory.is_live(slot) && filter.is_none_or(|set| set.contains(slot))
}
