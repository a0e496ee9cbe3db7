//! Buffers of a search, reused from one to the next so that searching does not allocate.

use core::cmp::Reverse;
use core::sync::atomic::{Ordering, fence};

use std::collections::BinaryHeap;

use crate::Slot;
use crate::search::pool::{Neighbour, Pool};
use crate::search::prepared::Prepared;
use crate::view::VectorView;

/// Looks at the signs of rows that take as long as a distance of a walk.
const GLANCES: u64 = 8;

/// Working memory of one search at a time. Keep a few per core; it grows with the largest view.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) walker: Walker,
    /// Candidates of the walk.
    pub(crate) pool: Pool,
    /// Nearest passing nodes of a filtered walk; live ones of a walk among dead ones.
    pub(crate) passed: Pool,
    /// Nodes still to be expanded by a walk among dead ones.
    pub(crate) frontier: BinaryHeap<Reverse<Neighbour>>,
    /// Nearest rows of a scan.
    pub(crate) best: Pool,
    /// Rows of a scanned block by their signs.
    pub(crate) rows: Glanced,
    /// Rows of a scanned block with their estimates.
    pub(crate) block: Vec<Neighbour>,
    /// What distances are computed against.
    pub(crate) query: Prepared,
}

impl Scratch {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Rows whose signs were looked at, with the least distance that each may have.
#[derive(Debug, Default)]
pub(crate) struct Glanced {
    /// How many there are: the buffers are as long as the largest block was.
    pub(crate) count: usize,
    pub(crate) slots: Vec<Slot>,
    pub(crate) lowest: Vec<f32>,
}

impl Glanced {
    /// Computes the least distances, allowing for so many spreads of the error. Only with a sign
    /// plane.
    #[allow(unsafe_code, reason = "the kernel addresses rows by slot")]
    pub(crate) fn glance(&mut self, view: &VectorView, query: &mut Prepared, spreads: f32) {
        let Some((signs, base)) = view.planes.signs() else { return };
        let query = query.signs(signs);
        let (slots, lowest) = (&self.slots[..self.count], &mut self.lowest[..self.count]);
        // SAFETY: a slot gets here from a bit of this view, of those present or not yet linked,
        // read with acquire ordering and set after the row was written; signs are written and
        // committed with the row.
        unsafe { signs.lowest(query, base, slots, spreads, lowest) };
    }

    /// The rows and their least distances.
    pub(crate) fn parts_mut(&mut self) -> (&[Slot], &mut [f32]) {
        (&self.slots[..self.count], &mut self.lowest[..self.count])
    }
}

/// The part of the scratch that visits nodes and computes distances.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    visited: Vec<u64>,
    /// Everything marked in `visited`, to unmark it.
    log: Vec<Slot>,
    /// Slots of the present step that were not visited before, with their distances.
    pub(crate) fresh: Vec<Slot>,
    pub(crate) distances: Vec<f32>,
    /// What the descent computed.
    pub(crate) descended: Vec<Neighbour>,
    /// Neighbours that pass a filter.
    pub(crate) passing: Vec<Slot>,
    /// Neighbours that do not, to be looked through.
    pub(crate) through: Vec<Slot>,
    /// Slots from this one on are not looked at: they came after the walk began.
    limit: u32,
    pub(crate) evaluations: u64,
    /// Distances computed from the best plane after an estimate.
    pub(crate) rescored: u64,
    pub(crate) hops: u64,
    /// Rows whose signs were looked at.
    pub(crate) glanced: u64,
}

impl Walker {
    /// Forgets what was visited and fits the buffers to the view.
    pub(crate) fn begin(&mut self, view: &VectorView) {
        self.forget();
        self.limit = view.high.load(Ordering::Acquire);
        let words = (self.limit as usize).div_ceil(64);
        if self.visited.len() < words {
            self.visited.resize(words, 0);
        }
        self.evaluations = 0;
        self.rescored = 0;
        self.hops = 0;
        self.glanced = 0;
    }

    /// Unmarks everything, by the log or as a whole, whichever is less to write.
    pub(crate) fn forget(&mut self) {
        // Filling writes eight words at a time.
        if self.log.len() < self.visited.len() / 8 {
            for &slot in &self.log {
                self.visited[(slot / 64) as usize] = 0;
            }
        } else {
            self.visited.fill(0);
        }
        self.log.clear();
    }

    /// Distances computed so far, estimates and others; a few looks at signs count as one.
    #[inline]
    pub(crate) fn work(&self) -> u64 {
        self.evaluations + self.rescored + self.glanced / GLANCES
    }

    /// Slots from this one on are beyond the walk.
    #[inline]
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Marks a slot; says whether it is new. Slots beyond the limit are never new.
    #[inline]
    pub(crate) fn visit(&mut self, slot: Slot) -> bool {
        if slot >= self.limit {
            return false;
        }
        let word = &mut self.visited[(slot / 64) as usize];
        let bit = 1u64 << (slot % 64);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.log.push(slot);
        true
    }

    /// Collects the neighbours of a node that were not visited, into `fresh`.
    #[inline]
    pub(crate) fn gather(&mut self, view: &VectorView, node: Slot, level: usize) {
        let words = view.link_words(node, level);
        self.fresh.resize(words.len(), 0);
        let mut count = 0;
        for word in words {
            let id = word.load(Ordering::Relaxed);
            // The end of a row, and slots that came after the walk began, are rare and branches;
            // whether a neighbour was visited is anybody's guess and a sum. Its row is asked for
            // either way: a visited one is near already.
            if id == 0 {
                break;
            }
            let slot = id - 1;
            if slot >= self.limit {
                continue;
            }
            view.planes.prefetch_start(slot);
            let seen = &mut self.visited[(slot / 64) as usize];
            let is_new = !*seen >> (slot % 64) & 1;
            *seen |= 1 << (slot % 64);
            self.fresh[count] = slot;
            count += is_new as usize;
        }
        self.fresh.truncate(count);
        self.log.extend_from_slice(&self.fresh);
        // Whoever stored a link had completed the vector behind it.
        fence(Ordering::Acquire);
        self.hops += 1;
    }

    /// Computes the distances of `fresh` to the query: exact without codes, estimates with them.
    #[inline]
    #[allow(unsafe_code, reason = "the kernel addresses rows by slot")]
    pub(crate) fn evaluate(&mut self, view: &VectorView, query: &Prepared) {
        self.distances.resize(self.fresh.len(), 0.0);
        debug_assert!(self.fresh.iter().all(|&slot| slot < view.high.load(Ordering::Acquire)));
        self.evaluations += self.fresh.len() as u64;
        let planes = &view.planes;
        let Some(codec) = &planes.codec else {
            let (query, rows) = (query.floats(view), planes.raw_rows());
            // SAFETY: a slot gets into `fresh` from a link or a presence bit of this view, both
            // read with acquire ordering after the row was written, and rows below `high` are
            // committed.
            return unsafe { view.kernels.many(query, rows, &self.fresh, &mut self.distances) };
        };
        // SAFETY: as above; codes and factors are written and committed with the row.
        unsafe { codec.many(&query.code, planes.code_rows(), &self.fresh, &mut self.distances) };
    }

    /// Computes the distances of `fresh` from the best plane there is.
    #[inline]
    #[allow(unsafe_code, reason = "the kernel addresses rows by slot")]
    pub(crate) fn rescore(&mut self, view: &VectorView, query: &Prepared) {
        self.distances.resize(self.fresh.len(), 0.0);
        debug_assert!(self.fresh.iter().all(|&slot| slot < view.high.load(Ordering::Acquire)));
        self.rescored += self.fresh.len() as u64;
        let planes = &view.planes;
        match &planes.codec {
            Some(codec) if !planes.has_raw() => {
                let (codes, residuals) = (planes.code_rows(), planes.refine_rows());
                let (fresh, out) = (&self.fresh, &mut self.distances);
                // SAFETY: as in `evaluate`, for both planes.
                unsafe { codec.refine(&query.code, codes, residuals, fresh, out) };
            }
            _ => {
                let (query, rows) = (query.floats(view), planes.raw_rows());
                // SAFETY: as in `evaluate`.
                unsafe { view.kernels.many(query, rows, &self.fresh, &mut self.distances) };
            }
        }
    }

    /// Asks for the rows of `fresh`.
    pub(crate) fn prefetch_rows(&self, view: &VectorView) {
        self.fresh.iter().for_each(|&slot| view.planes.prefetch(slot));
    }

    /// Starts a block of about so many rows.
    pub(crate) fn begin_block(&mut self, rows: usize) {
        self.fresh.clear();
        self.fresh.reserve(rows + 64);
    }
}
