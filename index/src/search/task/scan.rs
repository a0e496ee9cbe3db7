//! The scan of a slot set: of every row that passes, or of the tail alone.
//!
//! Where there is a sign plane and enough hits are known to bound the rest, a scan looks at the
//! signs of many rows first and at the codes of the few that may be near enough.

use super::rescore::{keep, lowest};
use super::{Phase, SearchTask};
use crate::limits::{GLANCE_BLOCK, SCAN_BLOCK};
use crate::search::pool::Neighbour;
use crate::search::scratch::Scratch;

/// A scan is exact, so it allows for errors of twice the margin, which a normal variable exceeds
/// in one of a thousand million cases.
const SCAN_MARGIN: f32 = 2.0;

/// Spreads of the error that a look at the signs allows for when all rows are searched: a row at
/// the very bound is lost in three of a million cases.
const EXACT_SPREADS: f32 = 4.5;

/// The same under a filter, where the other way is a walk that finds less than all: this many for
/// a pool of [`SPREADS_POOL`], and [`SPREADS_STEP`] more for each one twice as large. Two are
/// exceeded by one row in 40 of those at the very bound, and by few of those that are nearer.
const SPREADS_MIN: f32 = 2.0;
const SPREADS_MAX: f32 = 3.5;
const SPREADS_STEP: f32 = 0.25;
const SPREADS_POOL: f32 = 32.0;

/// Fewest rows of which the most promising one is computed before the others.
const GROUP_MIN: usize = 16;

impl SearchTask<'_> {
    pub(super) fn begin_scan(&mut self) {
        let range = if self.exact {
            0..(self.scratch.walker.limit() as usize).div_ceil(64)
        } else {
            self.view.tail_range()
        };
        self.phase = Phase::Scan { word: range.start, end: range.end };
    }

    /// Scans a block of rows: [`SCAN_BLOCK`] of them, or [`GLANCE_BLOCK`] by their signs.
    pub(super) fn scan_step(&mut self, word: usize, end: usize) {
        let glances = self.view.planes.signs().is_some();
        let word = self.gather_block(word, end, if glances { GLANCE_BLOCK } else { SCAN_BLOCK });
        let Scratch { walker, rows, .. } = &mut *self.scratch;
        if glances && rows.count > SCAN_BLOCK {
            self.glance();
        } else {
            walker.fresh.clear();
            walker.fresh.extend_from_slice(&rows.slots[..rows.count]);
        }
        self.compute_scanned();
        self.phase = match (word < end, self.exact) {
            (true, _) => Phase::Scan { word, end },
            (false, true) => Phase::Done,
            (false, false) => Phase::Descend,
        };
    }

    /// Collects the next rows that pass, `block` of them and up to 63 more; returns where to go on.
    fn gather_block(&mut self, mut word: usize, end: usize, block: usize) -> usize {
        let rows = &mut self.scratch.rows;
        let set = if self.exact { &self.view.present } else { &self.view.unlinked };
        if rows.slots.len() < block + 64 {
            rows.slots.resize(block + 64, 0);
            rows.lowest.resize(block + 64, 0.0);
        }
        let mut count = 0;
        while word < end && count < block {
            // The filter first: it is the one that may be nearly empty.
            let mut bits = self.request.filter.map_or(u64::MAX, |filter| filter.word(word));
            if bits != 0 {
                bits &= set.long(word) & self.directory.live_word(word);
                // Not by the number of bits: counting them costs more than a few of them do.
                let room = &mut rows.slots[count..count + 64];
                let mut here = 0;
                while bits != 0 {
                    room[here % 64] = word as u32 * 64 + bits.trailing_zeros();
                    bits &= bits - 1;
                    here += 1;
                }
                count += here;
            }
            word += 1;
        }
        rows.count = count;
        word
    }

    /// Collects those of the rows that may be hits by their signs. The most promising ones are
    /// computed first, so that they bound the others.
    fn glance(&mut self) {
        let spreads = self.spreads();
        let Scratch { walker, rows, query, .. } = &mut *self.scratch;
        walker.glanced += rows.count as u64;
        rows.glance(self.view, query, spreads);
        walker.fresh.clear();
        let group = rows.count.div_ceil(2 * self.request.k.max(1) as usize).max(GROUP_MIN);
        let (slots, lowest) = rows.parts_mut();
        for (slots, lowest) in slots.chunks(group).zip(lowest.chunks_mut(group)) {
            let least = least(lowest);
            if let Some(at) = lowest.iter().position(|&x| x == least) {
                walker.fresh.push(slots[at]);
                lowest[at] = f32::NAN;
            }
        }
        self.compute_scanned();
        let bound = self.walk_bound();
        let Scratch { walker, rows, .. } = &mut *self.scratch;
        walker.fresh.resize(rows.count + 1, 0);
        let mut left = 0;
        let (slots, lowest) = rows.parts_mut();
        for (&slot, &lowest) in slots.iter().zip(&*lowest) {
            walker.fresh[left] = slot;
            left += usize::from(lowest <= bound);
        }
        walker.fresh.truncate(left);
    }

    /// Spreads of the error that a look at the signs allows for.
    fn spreads(&self) -> f32 {
        match self.request.filter {
            // Rows within a distance are all wanted, also those at its very end.
            Some(_) if self.request.max_distance.is_none() => {
                let pool = self.request.ef.max(self.request.k).max(1);
                let doublings = (pool as f32 / SPREADS_POOL).log2();
                (SPREADS_MIN + doublings * SPREADS_STEP).clamp(SPREADS_MIN, SPREADS_MAX)
            }
            _ => EXACT_SPREADS,
        }
    }

    /// Computes the collected rows and keeps the nearest.
    fn compute_scanned(&mut self) {
        let Scratch { walker, best, query, .. } = &mut *self.scratch;
        walker.evaluate(self.view, query);
        if self.view.planes.codec.is_some() {
            self.keep_scanned();
        } else {
            keep(walker, best);
        }
    }

    /// Takes the rows of a scanned block that may be hits: their estimates stand in the walker.
    fn keep_scanned(&mut self) {
        let asked = self.asked_bound();
        let Scratch { walker, best, block, query, .. } = &mut *self.scratch;
        block.clear();
        let pairs = walker.fresh.iter().zip(&walker.distances);
        block.extend(pairs.map(|(&slot, &distance)| Neighbour::new(distance, slot)));
        let mut rest = &block[..];
        let missing = best.capacity() - best.entries().len();
        if missing > 0 {
            // Nothing bounds the rows yet: begin with the most promising of them.
            block.sort_unstable();
            let (first, others) = block.split_at(missing.min(block.len()));
            walker.fresh.clear();
            walker.fresh.extend(first.iter().map(|row| row.slot()));
            walker.rescore(self.view, query);
            keep(walker, best);
            rest = others;
        }
        let bound = asked.min(best.worst());
        walker.fresh.clear();
        let near = rest.iter().filter(|row| lowest(self.view, query, **row, SCAN_MARGIN) <= bound);
        walker.fresh.extend(near.map(|row| row.slot()));
        walker.rescore(self.view, query);
        keep(walker, best);
    }
}

/// The least of some numbers, not counting what is none.
fn least(numbers: &[f32]) -> f32 {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let mut lanes = [f32::INFINITY; 8];
    let (parts, rest) = numbers.as_chunks::<8>();
    for part in parts {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane = smaller(*lane, x);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::INFINITY, smaller)
}
