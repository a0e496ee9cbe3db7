//! How a filtered search goes about it: scan the passing rows, walk over all nodes and collect, or
//! walk over the passing nodes alone.
//!
//! The share of rows that pass says little about the surroundings of a query: a filter on the
//! origin of texts passes nearly all or nearly none of a query's neighbours. So the choice is made
//! when the descent has arrived, from the share of passing rows in a sample around that place and
//! from what each way is expected to cost. The expectation is corrected by what earlier searches
//! of the same kind cost, counted in distances and link rows; no clock is read, so the same
//! searches in the same order take the same ways.
//!
//! A query whose surroundings do not pass is far from all that does. Its passing neighbours are
//! then nearly equally far, and a walk needs more candidates for the same recall (an index of the
//! passing rows alone needs as many): the pool grows with the contrast of the two shares.
//!
//! Source of the walk over passing nodes: ACORN-1 (Patel et al., 2024), section 5. Departures: the
//! second hop is taken only where few neighbours pass and ends when enough are found, so its price
//! falls with the share that passes; the walk starts from passing rows beside the usual entry.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use crate::Slot;
use crate::bitmap::SlotBitmap;
use crate::search::Strategy;
use crate::search::scratch::{Scratch, Walker};
use crate::view::VectorView;

/// Neighbours of the sampled place whose own neighbours are counted as well.
const SAMPLE_ROWS: usize = 8;

/// Distances per expanded node of a walk; 14 to 17 were counted.
const EVALUATIONS_PER_HOP: u64 = 16;

/// Distances per expanded node of a walk over passing nodes; 20 to 27 were counted.
const EVALUATIONS_PER_PASSING_HOP: u64 = 24;

/// The same for a query outside of what passes: there the walk is among passing nodes alone, and
/// many of them; 9 to 12 were counted.
const EVALUATIONS_PER_OUTSIDE_HOP: u64 = 12;

/// From this share of passing neighbours on, a node is expanded without looking further.
const ENOUGH_PASSING: usize = 16;

/// A node with fewer is looked through until so many passing ones are found. Half of it costs two
/// points of recall at one passing row in five, twice as much gains nothing.
const WANTED_PASSING: usize = 32;

/// Local share from which on collecting is considered.
const COLLECT_SHARE_MIN: f64 = 0.3;

/// Up to this price ratio collecting is preferred to the walk over passing nodes: with the same
/// number of passing candidates it has seen more of the graph, and finds more.
const COLLECT_PRICE_RATIO: u64 = 2;

/// Largest factor by which the pool grows for a query outside of what passes.
const OUTSIDE_FACTOR_MAX: f64 = 8.0;

/// A local share below this part of the overall one counts as outside.
const OUTSIDE_RATIO: f64 = 0.5;

/// Rows of neighbours to be looked through that are asked for ahead of the one at hand: a row takes
/// a tenth of the time that memory needs for it.
const ROWS_AHEAD: usize = 8;

/// A walk over passing nodes starts from this many rows of the filter, evenly spread over it. More
/// than a few dozen gain nothing.
const SEEDS: usize = 16;

/// Classes of shares, each half of the one before, that costs are learnt for.
const CLASSES: usize = 10;

/// Weight of the latest search in what is learnt: one in so many.
const LEARNING_WINDOW: u64 = 16;

/// Part of a learnt excess that is forgotten when it keeps a search from walking: one in so many.
const FORGETTING_WINDOW: u64 = 64;

/// One in the fixed-point ratios that are learnt, and their bounds.
const RATIO_ONE: u64 = 1 << 10;
const RATIO_MIN: u64 = RATIO_ONE / 8;
const RATIO_MAX: u64 = RATIO_ONE * 16;

/// What parts of a search cost, in about nanoseconds of a machine; their proportions matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prices {
    /// A distance of a walk.
    evaluation: u64,
    /// A distance of a scan: its order is known, so less is waited for.
    scanned: u64,
    /// A row of links, read and tested.
    hop: u64,
}

impl Prices {
    pub(crate) fn of(view: &VectorView) -> Self {
        let bytes = view.planes.bytes;
        let row = if bytes.walk > 0 { bytes.walk + bytes.factors } else { bytes.raw };
        let lines = row.div_ceil(64) as u64;
        // By their signs, and a few by their codes.
        let scanned = if bytes.signs > 0 { 6 + bytes.signs as u64 / 64 } else { 5 + 3 * lines };
        Self { evaluation: 10 + 4 * lines, scanned, hop: 48 }
    }

    /// A scan of so many rows.
    pub(crate) fn scan(&self, rows: u64) -> u64 {
        rows.saturating_mul(self.scanned)
    }

    /// A walk that expands `hops` nodes without a filter.
    pub(crate) fn plain(&self, hops: u64) -> u64 {
        hops.saturating_mul(EVALUATIONS_PER_HOP * self.evaluation + self.hop)
    }

    /// A walk over passing nodes that expands `hops` of them, far from the query.
    fn outside(&self, hops: u64) -> u64 {
        hops.saturating_mul(EVALUATIONS_PER_OUTSIDE_HOP * self.evaluation + 2 * self.hop)
    }

    /// A walk over passing nodes that expands `hops` of them, with this share of passing nodes
    /// around them.
    fn two_hop(&self, hops: u64, around: f64) -> u64 {
        let rows = (1.0 + 1.6 / around).min(1.0 + WANTED_PASSING as f64) as u64;
        hops.saturating_mul(EVALUATIONS_PER_PASSING_HOP * self.evaluation + rows * self.hop)
    }

    /// What a walk has cost so far.
    #[inline]
    pub(crate) fn spent(&self, walker: &Walker) -> u64 {
        walker.evaluations * self.evaluation + walker.hops * self.hop
    }
}

/// Kinds of walks that costs are learnt for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Over all nodes.
    Collect,
    /// Over passing nodes, near the query.
    Near,
    /// Over passing nodes, for a query outside of what passes.
    Outside,
}

/// Number of [`Kind`]s.
const KINDS: usize = 3;

/// What filtered walks really cost, as a ratio to the expectation. Any core updates it; a lost
/// update is lost experience and nothing else.
#[derive(Debug)]
pub(crate) struct Experience {
    ratios: [[AtomicU32; CLASSES]; KINDS],
}

impl Default for Experience {
    fn default() -> Self {
        let fresh = |_| AtomicU32::new(RATIO_ONE as u32);
        Self { ratios: core::array::from_fn(|_| core::array::from_fn(fresh)) }
    }
}

impl Experience {
    fn ratio(&self, plan: &Plan) -> &AtomicU32 {
        let class = (-plan.around.log2()).clamp(0.0, CLASSES as f64 - 1.0) as usize;
        &self.ratios[plan.kind as usize][class]
    }

    /// The price of a walk, corrected by what is known.
    fn correct(&self, plan: &Plan) -> u64 {
        let ratio = u64::from(self.ratio(plan).load(Ordering::Relaxed));
        plan.expected.saturating_mul(ratio) / RATIO_ONE
    }

    /// Takes in what a walk has cost.
    pub(crate) fn learn(&self, plan: &Plan, spent: u64) {
        let ratio = self.ratio(plan);
        let seen = spent.saturating_mul(RATIO_ONE) / plan.expected.max(1);
        let seen = seen.clamp(RATIO_MIN, RATIO_MAX);
        let known = u64::from(ratio.load(Ordering::Relaxed));
        let next = (known * (LEARNING_WINDOW - 1) + seen).div_ceil(LEARNING_WINDOW);
        ratio.store(next as u32, Ordering::Relaxed);
    }

    /// Forgets a little of what made a walk seem too dear: a walk that is never taken again would
    /// never be corrected.
    fn relax(&self, plan: &Plan) {
        let ratio = self.ratio(plan);
        let known = u64::from(ratio.load(Ordering::Relaxed));
        let excess = known.saturating_sub(RATIO_ONE);
        ratio.store((known - excess.div_ceil(FORGETTING_WINDOW)) as u32, Ordering::Relaxed);
    }

    /// Takes over what an outgrown view has learnt.
    pub(crate) fn copy_from(&self, other: &Self) {
        let others = other.ratios.iter().flatten();
        for (mine, other) in self.ratios.iter().flatten().zip(others) {
            mine.store(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// How a search goes on from where the descent has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) strategy: Strategy,
    kind: Kind,
    /// Passing candidates that the walk keeps.
    pub(crate) ef: usize,
    /// Share of passing rows where the walk goes, as far as is known.
    around: f64,
    /// Price by the formulas alone.
    expected: u64,
    /// A walk that has cost this much takes another way.
    pub(crate) give_up: u64,
}

impl Plan {
    /// Chooses the way of a filtered search that keeps `ef` candidates, of whose `present` rows
    /// `passing` pass, from the node at which the descent arrived. Cost: nine rows of links.
    pub(crate) fn choose(
        view: &VectorView,
        filter: &SlotBitmap,
        node: Slot,
        ef: usize,
        (passing, present): (u64, u64),
    ) -> Self {
        let prices = Prices::of(view);
        let scan = prices.scan(passing);
        let share = passing as f64 / present.max(1) as f64;
        let (seen, found) = sample(view, filter, node);
        let local = f64::from(found) / f64::from(seen.max(1));
        // What the sample does not rule out, so that a small one alone makes nothing larger.
        let local_most = f64::from(found + 1) / f64::from(seen + 1);
        let outside = (share * OUTSIDE_RATIO / local_most).clamp(1.0, OUTSIDE_FACTOR_MAX);
        let two_hop = if outside > 1.0 {
            let ef = (ef as f64 * outside) as usize;
            let expected = prices.outside(ef as u64);
            Self::over_passing(Kind::Outside, ef, share, expected, scan)
        } else {
            Self::near(prices, ef, local.max(share), scan)
        };
        let two_hop_price = view.experience.correct(&two_hop);
        if local >= COLLECT_SHARE_MIN {
            let expected = prices.plain((ef as f64 / local) as u64);
            let (strategy, kind, around) = (Strategy::Collect, Kind::Collect, local);
            let collect = Self { strategy, kind, ef, around, expected, give_up: 0 };
            let price = view.experience.correct(&collect);
            if price <= scan.min(two_hop_price.saturating_mul(COLLECT_PRICE_RATIO)) {
                let give_up = scan.min(price.saturating_mul(2 * COLLECT_PRICE_RATIO));
                return Self { give_up, ..collect };
            }
        }
        if two_hop_price <= scan {
            return two_hop;
        }
        if two_hop.expected <= scan {
            view.experience.relax(&two_hop);
        }
        Self { strategy: Strategy::Scan, ..two_hop }
    }

    fn near(prices: Prices, ef: usize, around: f64, scan: u64) -> Self {
        let around = around.max(f64::EPSILON);
        Self::over_passing(Kind::Near, ef, around, prices.two_hop(ef as u64, around), scan)
    }

    fn over_passing(kind: Kind, ef: usize, around: f64, expected: u64, give_up: u64) -> Self {
        Self { strategy: Strategy::TwoHop, kind, ef, around, expected, give_up }
    }

    /// The walk over passing nodes that follows a collecting one that was given up.
    pub(crate) fn instead(&self, view: &VectorView, scan: u64) -> Self {
        Self::near(Prices::of(view), self.ef, self.around, scan)
    }

    /// Candidates of any kind that the walk has to keep in mind.
    pub(crate) fn pool(&self) -> usize {
        match self.strategy {
            // Twice what is expected: the share falls with the distance from the query.
            Strategy::Collect => (2.0 * self.ef as f64 / self.around) as usize,
            Strategy::Plain | Strategy::TwoHop | Strategy::Scan => self.ef,
        }
    }
}

/// Counts the rows, and those that pass, up to two hops around a node: a few hundred.
fn sample(view: &VectorView, filter: &SlotBitmap, node: Slot) -> (u32, u32) {
    let (mut seen, mut passing) = (0, 0);
    let mut count = |slot: Slot| {
        seen += 1;
        passing += u32::from(filter.contains(slot));
    };
    let mut rows = [0; SAMPLE_ROWS];
    let mut held = 0;
    let step = view.neighbours(node, 0).count().div_ceil(SAMPLE_ROWS).max(1);
    for (place, slot) in view.neighbours(node, 0).enumerate() {
        count(slot);
        if place % step == 0 && held < SAMPLE_ROWS {
            view.prefetch_links(slot);
            rows[held] = slot;
            held += 1;
        }
    }
    rows[..held].iter().for_each(|&row| view.neighbours(row, 0).for_each(&mut count));
    (seen, passing)
}

/// Puts passing rows from all over the filter into `fresh`, as starting points.
pub(crate) fn gather_seeds(view: &VectorView, filter: &SlotBitmap, scratch: &mut Scratch) {
    let walker = &mut scratch.walker;
    walker.begin_block(SEEDS);
    let words = filter.word_count();
    let step = words.div_ceil(SEEDS).max(1);
    for first in (0..words).step_by(step) {
        let mut range = first..(first + step).min(words);
        let Some(word) = range.find(|&word| filter.word(word) != 0) else { continue };
        let slot = word as u32 * 64 + filter.word(word).trailing_zeros();
        if view.is_linked(slot) && walker.visit(slot) {
            walker.fresh.push(slot);
        }
    }
}

impl Walker {
    /// Collects the passing neighbours of a node, and where these are few, through neighbours that
    /// do not pass the passing ones behind them. Marks what it collects and what it looked through.
    #[inline]
    pub(crate) fn gather_passing(&mut self, view: &VectorView, node: Slot, filter: &SlotBitmap) {
        self.fresh.clear();
        let mut found = self.split_row(view, node, filter);
        self.keep_new(view);
        if found < ENOUGH_PASSING {
            let through = core::mem::take(&mut self.through);
            through.iter().take(ROWS_AHEAD).for_each(|&ahead| view.prefetch_links(ahead));
            for (index, &between) in through.iter().enumerate() {
                if found >= WANTED_PASSING {
                    break;
                }
                if let Some(&ahead) = through.get(index + ROWS_AHEAD) {
                    view.prefetch_links(ahead);
                }
                if self.visit(between) {
                    self.passing_of_row(view, between, filter);
                    found += self.keep_new(view);
                }
            }
            self.through = through;
        }
        fence(Ordering::Acquire);
    }

    /// Splits the links of a node into those that pass, in `passing`, and the others, in `through`;
    /// returns how many pass. Which way a link goes is anybody's guess, so no branch depends on it.
    #[inline]
    fn split_row(&mut self, view: &VectorView, node: Slot, filter: &SlotBitmap) -> usize {
        let words = view.link_words(node, 0);
        self.passing.resize(words.len(), 0);
        self.through.resize(words.len(), 0);
        self.hops += 1;
        let (mut passing, mut others) = (0, 0);
        for word in words {
            let Some(slot) = word.load(Ordering::Relaxed).checked_sub(1) else { break };
            let passes = usize::from(filter.contains(slot));
            self.passing[passing] = slot;
            self.through[others] = slot;
            passing += passes;
            others += 1 - passes;
        }
        self.passing.truncate(passing);
        self.through.truncate(others);
        passing
    }

    /// Puts the links of a node that pass into `passing`; again without a branch.
    #[inline]
    fn passing_of_row(&mut self, view: &VectorView, node: Slot, filter: &SlotBitmap) {
        let words = view.link_words(node, 0);
        self.passing.resize(words.len(), 0);
        self.hops += 1;
        let mut passing = 0;
        for word in words {
            let Some(slot) = word.load(Ordering::Relaxed).checked_sub(1) else { break };
            self.passing[passing] = slot;
            passing += usize::from(filter.contains(slot));
        }
        self.passing.truncate(passing);
    }

    /// Adds what is new of `passing` to `fresh`, marks it as visited and asks for its rows; returns
    /// how many are new. Few pass where this is called for many rows, so here branches pay.
    #[inline]
    fn keep_new(&mut self, view: &VectorView) -> usize {
        let before = self.fresh.len();
        let passing = core::mem::take(&mut self.passing);
        for &slot in &passing {
            if self.visit(slot) {
                view.planes.prefetch_start(slot);
                self.fresh.push(slot);
            }
        }
        self.passing = passing;
        self.fresh.len() - before
    }
}
