//! Repair around dead slots, and their release.
//!
//! A pass names its *doomed*: the dead slots in the graph when it begins. It goes over every slot;
//! a node that links to a dead one gets new links chosen from its live neighbours and the live
//! neighbours of its dead ones; that includes nodes that died during the pass. New links never lead
//! to dead slots, so at the end of the pass only the doomed link to the doomed, and they leave
//! together. Their rows stay as they are
//! for readers that stand on them; the slots are reused only after a quiescent point.

use core::sync::atomic::Ordering;
use std::collections::BTreeSet;

use crate::Slot;
use crate::bitmap::SlotBitmap;
use crate::directory::SlotDirectory;
use crate::search::pool::Neighbour;
use crate::view::{Entry, VectorView};
use crate::writer::VectorWriter;
use crate::writer::link::{LinkScratch, live_around, write_links};
use crate::writer::select::select;

/// How far a sweep has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepState {
    /// Nothing is dead; no work was done.
    Idle,
    /// A pass is under way.
    Running,
    /// A pass ended with this call: its dead slots have been reported as freed.
    Finished,
}

/// State of the sweep between steps.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Dead slots that the index still holds in its graph.
    dead: BTreeSet<Slot>,
    /// Dead slots that are out of the index and wait to be reported.
    released: Vec<Slot>,
    pass: Option<Pass>,
    /// Distances computed so far.
    evaluations: u64,
}

#[derive(Debug)]
struct Pass {
    doomed: SlotBitmap,
    next: Slot,
    end: Slot,
}

impl Sweep {
    pub(crate) fn dead_count(&self) -> u32 {
        (self.dead.len() + self.released.len()) as u32
    }
}

impl VectorWriter {
    /// Tells the index that the object of a slot died; beside [`crate::DirectoryWriter::kill`].
    ///
    /// A slot that was not linked yet leaves at once and is reported by the next sweep step.
    /// Without this call a sweep finds the slot by itself when its next pass begins.
    pub fn kill(&mut self, slot: Slot) {
        let view = &*self.view;
        if !view.holds(slot) {
            return;
        }
        if view.unlinked.bit(slot as usize) {
            view.leave_tail(slot);
            release(view, slot);
            self.sweep.released.push(slot);
        } else {
            self.sweep.dead.insert(slot);
        }
    }

    /// Looks at up to `budget_slots` slots, repairs links around dead ones, and appends to `freed`
    /// the slots this index no longer holds. Once every index of the shard has reported a slot, the
    /// caller retires an epoch and gives the slot to [`crate::DirectoryWriter::free`].
    ///
    /// Cost: two cache lines per slot without dead neighbours; a repair is about an insert's
    /// linking.
    pub fn sweep_step(
        &mut self,
        directory: &SlotDirectory,
        budget_slots: usize,
        freed: &mut Vec<Slot>,
    ) -> SweepState {
        let reported = !self.sweep.released.is_empty();
        freed.append(&mut self.sweep.released);
        let mut pass = match self.sweep.pass.take() {
            Some(pass) => pass,
            None => match self.begin_pass(directory) {
                Some(pass) => {
                    freed.append(&mut self.sweep.released);
                    pass
                }
                None if reported => return SweepState::Finished,
                None => return SweepState::Idle,
            },
        };
        let stop = pass.end.min(pass.next.saturating_add(budget_slots.max(1) as u32));
        while pass.next < stop {
            if self.view.is_linked(pass.next) && !pass.doomed.contains(pass.next) {
                self.repair(pass.next, directory);
            }
            pass.next += 1;
        }
        if pass.next < pass.end {
            self.sweep.pass = Some(pass);
            return SweepState::Running;
        }
        self.end_pass(pass, freed);
        SweepState::Finished
    }

    /// Distances that sweeping has computed so far.
    #[must_use]
    pub fn sweep_evaluations(&self) -> u64 {
        self.sweep.evaluations
    }

    /// Collects what is dead now. None when nothing is.
    fn begin_pass(&mut self, directory: &SlotDirectory) -> Option<Pass> {
        let high = self.view.high.load(Ordering::Relaxed);
        if directory.dead_count() as usize > self.sweep.dead.len() {
            for slot in 0..high {
                if directory.is_dead(slot) && self.view.holds(slot) {
                    self.kill(slot);
                }
            }
        }
        if self.sweep.dead.is_empty() {
            return None;
        }
        let doomed = self.sweep.dead.iter().copied().collect();
        Some(Pass { doomed, next: 0, end: high })
    }

    /// Gives a node new links on every layer where it has a dead neighbour.
    fn repair(&mut self, node: Slot, directory: &SlotDirectory) {
        let view = &*self.view;
        for layer in 0..=view.level_of(node) {
            if view.neighbours(node, layer).any(|other| directory.is_dead(other)) {
                let before = self.scratch.walker.evaluations;
                repair_layer(view, directory, &mut self.scratch, node, layer);
                self.sweep.evaluations += self.scratch.walker.evaluations - before;
            }
        }
    }

    /// Takes the doomed out of the index.
    fn end_pass(&mut self, pass: Pass, freed: &mut Vec<Slot>) {
        let view = &*self.view;
        if view.entry().is_some_and(|entry| pass.doomed.contains(entry.slot)) {
            view.set_entry(highest(view, &pass.doomed));
        }
        for slot in pass.doomed.iter() {
            release(view, slot);
            self.sweep.dead.remove(&slot);
            freed.push(slot);
        }
    }
}

/// The slot is no longer part of the index. Its rows stay for readers that stand on them.
fn release(view: &VectorView, slot: Slot) {
    view.present.clear_bit(slot as usize);
    let count = view.present_count.load(Ordering::Relaxed);
    view.present_count.store(count - 1, Ordering::Release);
}

/// The linked node on the highest layer (the lowest slot of those), without the doomed.
fn highest(view: &VectorView, doomed: &SlotBitmap) -> Option<Entry> {
    let mut best: Option<Entry> = None;
    for slot in 0..view.high.load(Ordering::Relaxed) {
        let level = view.level_of(slot);
        let better = best.is_none_or(|best| level > best.level);
        if better && view.is_linked(slot) && !doomed.contains(slot) {
            best = Some(Entry { slot, level });
        }
    }
    best
}

/// Chooses the links of a node anew, passing over its dead neighbours to theirs.
fn repair_layer(
    view: &VectorView,
    directory: &SlotDirectory,
    scratch: &mut LinkScratch,
    node: Slot,
    layer: usize,
) {
    let LinkScratch { walker, query, other, list, pruned, .. } = scratch;
    live_around(view, directory, walker, node, layer);
    view.query_of(node, query);
    walker.evaluate(view, query);
    list.clear();
    let pairs = walker.fresh.iter().zip(&walker.distances);
    list.extend(pairs.map(|(&slot, &distance)| Neighbour::new(distance, slot)));
    list.sort_unstable();
    let limit = view.link_words(node, layer).len();
    select(view, node, list, limit, (walker, other), pruned);
    write_links(view, node, layer, pruned);
}
