//! Nodes that no way from the entry leads to: found, and given a link from a node that is reached.
//!
//! Pruning drops links by their place, not by what they lead to, so now and then a node loses its
//! last one. The audit walks all links of all layers from the entry, then looks for linked nodes
//! that were not reached. A node linked while the audit is under way counts as reached when a
//! neighbour that was reached links back to it.

use core::sync::atomic::Ordering;

use crate::Slot;
use crate::bitmap::SlotBitmap;
use crate::directory::SlotDirectory;
use crate::search::descent::{descend, walk};
use crate::search::pool::Pool;
use crate::view::VectorView;
use crate::writer::link::{LinkScratch, note_change};

/// Candidates kept by the search for the surroundings of a node that is cut off.
const POOL: usize = 48;

/// Links that lead to such a node afterwards.
const LINKS: usize = 2;

/// Slots looked at for the price of a distance.
const SLOTS_PER_DISTANCE: u32 = 8;

/// A walk over the whole graph that can be interrupted.
#[derive(Debug)]
pub(super) struct Audit {
    seen: SlotBitmap,
    open: Vec<Slot>,
    next: Slot,
    end: Slot,
    pool: Pool,
}

impl Audit {
    pub(super) fn begin(view: &VectorView) -> Self {
        let end = view.high.load(Ordering::Relaxed);
        let mut audit = Self {
            seen: SlotBitmap::with_capacity(end),
            open: Vec::new(),
            next: 0,
            end,
            pool: Pool::default(),
        };
        if let Some(entry) = view.entry() {
            audit.reach(entry.slot);
        }
        audit
    }

    fn reach(&mut self, slot: Slot) {
        if slot < self.end && self.seen.insert(slot) {
            self.open.push(slot);
        }
    }

    /// Works for about `left` distances and takes from it what was used; true when all is done.
    pub(super) fn step(
        &mut self,
        view: &VectorView,
        directory: &SlotDirectory,
        scratch: &mut LinkScratch,
        left: &mut u64,
    ) -> bool {
        while *left > 0 {
            if let Some(slot) = self.open.pop() {
                for layer in 0..=view.level_of(slot) {
                    for other in view.neighbours(slot, layer) {
                        if other < self.end && self.seen.insert(other) {
                            view.prefetch_links(other);
                            self.open.push(other);
                        }
                    }
                }
                *left -= 1;
                continue;
            }
            if self.next >= self.end {
                return true;
            }
            let stop = self.end.min(self.next + SLOTS_PER_DISTANCE);
            *left -= 1;
            while self.next < stop {
                let slot = self.next;
                self.next += 1;
                let counts = view.is_linked(slot) && !directory.is_dead(slot);
                if counts && !self.seen.contains(slot) {
                    if !self.is_linked_back(view, slot) {
                        let before = scratch.walker.evaluations;
                        self.connect(view, directory, scratch, slot);
                        *left = left.saturating_sub(scratch.walker.evaluations - before);
                    }
                    self.reach(slot);
                    break;
                }
            }
        }
        false
    }

    /// Whether a neighbour that was reached links to the slot.
    fn is_linked_back(&self, view: &VectorView, slot: Slot) -> bool {
        let mut reached = view.neighbours(slot, 0).filter(|&other| self.seen.contains(other));
        reached.any(|other| view.neighbours(other, 0).any(|back| back == slot))
    }

    /// Links a node from the nearest nodes that a search finds, which are reached by definition.
    fn connect(
        &mut self,
        view: &VectorView,
        directory: &SlotDirectory,
        scratch: &mut LinkScratch,
        slot: Slot,
    ) {
        let Some(entry) = view.entry() else { return };
        let LinkScratch { walker, query, .. } = scratch;
        let spent = walker.evaluations;
        walker.begin(view);
        view.query_of(slot, query);
        let start = descend(view, query, walker, entry, 0);
        walker.forget();
        walker.visit(start.slot());
        self.pool.reset(POOL);
        self.pool.insert(start);
        walk(view, query, walker, &mut self.pool, 0, u64::MAX);
        walker.evaluations += spent;
        let hosts = self.pool.entries().iter().map(|found| found.slot());
        let hosts = hosts.filter(|&host| host != slot && !directory.is_dead(host));
        let mut links = 0;
        let mut nearest = None;
        for host in hosts {
            nearest = nearest.or(Some(host));
            if links < LINKS && link_from(view, host, slot) {
                links += 1;
            }
        }
        // Better to cut off another one, which the next audit finds, than to leave this one out.
        if let (0, Some(host)) = (links, nearest)
            && let Some(word) = view.link_words(host, 0).last()
        {
            word.store(slot + 1, Ordering::Release);
            note_change(view);
        }
    }
}

/// Adds a link, in a free place or in that of a link whose target another neighbour leads to.
fn link_from(view: &VectorView, host: Slot, slot: Slot) -> bool {
    let words = view.link_words(host, 0);
    let degree = view.neighbours(host, 0).count();
    if let Some(word) = words.get(degree) {
        word.store(slot + 1, Ordering::Release);
        note_change(view);
        return true;
    }
    let is_spare = |target: Slot| {
        view.neighbours(host, 0)
            .filter(|&between| between != target && between != slot)
            .any(|between| view.neighbours(between, 0).any(|other| other == target))
    };
    let spare = words
        .iter()
        .rev()
        .find(|word| word.load(Ordering::Relaxed).checked_sub(1).is_some_and(is_spare));
    if let Some(word) = spare {
        word.store(slot + 1, Ordering::Release);
        note_change(view);
    }
    spare.is_some()
}
