//! Repair around dead slots, their release, and the search for nodes that are cut off.
//!
//! A pass names its *doomed*: the dead slots in the graph when it begins. It goes over every slot;
//! a node that links to dead ones keeps its other links and gets, in the place of those it loses,
//! links chosen from what its dead neighbours link to; that includes nodes that died during the
//! pass. New links never lead to dead slots, so when every slot was looked at only the doomed link
//! to the doomed, and they leave together. Their rows stay as they are for readers that stand on
//! them; the slots are reused only after a quiescent point. Last, the graph is walked from its
//! entry, and what was not reached gets a link from a node that was.
//!
//! Every stage stops when the budget of a step is used up and goes on with the next step.

mod audit;
mod repair;

use core::sync::atomic::Ordering;

use crate::Slot;
use crate::bitmap::SlotBitmap;
use crate::directory::SlotDirectory;
use crate::view::{Entry, VectorView};
use crate::writer::VectorWriter;
use audit::Audit;
use repair::repair_layer;

/// Words of a slot set, or slots without anything to repair or to read but a word or two, that
/// cost about as much as one distance.
const WORDS_PER_DISTANCE: usize = 8;

/// How far a sweep has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepState {
    /// Nothing is dead; no work was done but looking for what is.
    Idle,
    /// A pass is under way.
    Running,
    /// A pass ended with this call: its dead slots have been reported as freed.
    Finished,
}

/// State of the sweep between steps.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Dead slots in the graph that no pass has taken on.
    dead: SlotBitmap,
    /// Dead slots that leave the graph with the present pass.
    doomed: SlotBitmap,
    /// Dead slots that are out of the index and wait to be reported.
    released: Vec<Slot>,
    stage: Option<Stage>,
    /// Distances computed so far.
    evaluations: u64,
}

/// What the pass does.
#[derive(Debug)]
enum Stage {
    /// Looks for dead slots that nobody told the index about, from this word of the sets on.
    Collect { word: usize },
    /// Repairs links, from this slot on.
    Repair { next: Slot, end: Slot },
    /// Looks for a new entry, from this slot on.
    Entry { next: Slot, best: Option<Entry> },
    /// Takes the doomed out of the index, from this word of their set on.
    Release { word: usize },
    /// Looks for nodes that are cut off, and links them.
    Audit(Audit),
}

impl Sweep {
    pub(crate) fn dead_count(&self) -> u32 {
        self.dead.len() + self.doomed.len() + self.released.len() as u32
    }
}

impl VectorWriter {
    /// Tells the index that the object of a slot died; beside [`crate::DirectoryWriter::kill`].
    ///
    /// A slot that was not linked yet leaves at once and is reported by the next sweep step.
    /// Without this call a sweep finds the slot by itself when its next pass begins.
    pub fn kill(&mut self, slot: Slot) {
        let view = &*self.view;
        if !view.holds(slot) || self.sweep.doomed.contains(slot) {
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

    /// Repairs links around dead slots for about `budget` distances, and appends to `freed` the
    /// slots this index no longer holds. Once every index of the shard has reported a slot, the
    /// caller retires an epoch and gives the slot to [`crate::DirectoryWriter::free`].
    ///
    /// Cost: looking at a slot counts as one distance, whatever it leads to as the distances it
    /// computes. A step exceeds its budget by at most the repair of one node (some hundred
    /// distances) or the search for the surroundings of a node that is cut off.
    pub fn sweep_step(
        &mut self,
        directory: &SlotDirectory,
        budget: usize,
        freed: &mut Vec<Slot>,
    ) -> SweepState {
        let reported = !self.sweep.released.is_empty();
        freed.append(&mut self.sweep.released);
        let mut stage = self.sweep.stage.take().or_else(|| self.begin_pass(directory));
        let mut left = budget.max(1) as u64;
        while let Some(now) = stage {
            if left == 0 {
                self.sweep.stage = Some(now);
                return SweepState::Running;
            }
            let is_last = matches!(now, Stage::Audit(_));
            let is_search = matches!(now, Stage::Collect { .. });
            stage = self.advance(now, directory, &mut left, freed);
            if stage.is_none() && is_last {
                return SweepState::Finished;
            }
            if stage.is_none() && is_search {
                let found = !self.sweep.released.is_empty();
                freed.append(&mut self.sweep.released);
                return if found || reported { SweepState::Finished } else { SweepState::Idle };
            }
        }
        if reported { SweepState::Finished } else { SweepState::Idle }
    }

    /// Distances that sweeping has computed so far.
    #[must_use]
    pub fn sweep_evaluations(&self) -> u64 {
        self.sweep.evaluations
    }

    /// The first stage of a pass. None when nothing is dead.
    fn begin_pass(&mut self, directory: &SlotDirectory) -> Option<Stage> {
        if directory.dead_count() > self.sweep.dead.len() {
            return Some(Stage::Collect { word: 0 });
        }
        self.begin_repair()
    }

    /// The doomed of this pass are what is dead now.
    fn begin_repair(&mut self) -> Option<Stage> {
        if self.sweep.dead.is_empty() {
            return None;
        }
        self.sweep.doomed = core::mem::take(&mut self.sweep.dead);
        Some(Stage::Repair { next: 0, end: self.view.high.load(Ordering::Relaxed) })
    }

    /// Works on a stage until it is through or nothing is left of the budget; returns what comes
    /// next.
    fn advance(
        &mut self,
        stage: Stage,
        directory: &SlotDirectory,
        left: &mut u64,
        freed: &mut Vec<Slot>,
    ) -> Option<Stage> {
        match stage {
            Stage::Collect { word } => self.collect(word, directory, left),
            Stage::Repair { next, end } => Some(self.repair(next, end, directory, left)),
            Stage::Entry { next, best } => Some(self.find_entry(next, best, directory, left)),
            Stage::Release { word } => Some(self.release_doomed(word, left, freed)),
            Stage::Audit(audit) => self.audit(audit, directory, left),
        }
    }

    /// Finds what died without being reported.
    fn collect(&mut self, from: usize, directory: &SlotDirectory, left: &mut u64) -> Option<Stage> {
        let words = (self.view.high.load(Ordering::Relaxed) as usize).div_ceil(64);
        let mut word = from;
        while word < words {
            if *left == 0 {
                return Some(Stage::Collect { word });
            }
            let end = words.min(word + WORDS_PER_DISTANCE);
            while word < end {
                let known = self.sweep.dead.word(word);
                let mut bits = directory.dead_word(word) & self.view.present.long(word) & !known;
                while bits != 0 {
                    self.kill(word as u32 * 64 + bits.trailing_zeros());
                    bits &= bits - 1;
                }
                word += 1;
            }
            *left -= 1;
        }
        self.begin_repair()
    }

    /// Gives nodes new links on every layer where they have dead neighbours.
    fn repair(
        &mut self,
        mut next: Slot,
        end: Slot,
        directory: &SlotDirectory,
        left: &mut u64,
    ) -> Stage {
        let view = &*self.view;
        let before = self.scratch.walker.evaluations;
        let mut used = 0;
        while next < end && used < *left {
            if view.is_linked(next) && !self.sweep.doomed.contains(next) {
                for layer in 0..=view.level_of(next) {
                    if view.neighbours(next, layer).any(|other| directory.is_dead(other)) {
                        repair_layer(view, directory, &mut self.scratch, next, layer);
                    }
                }
            }
            next += 1;
            used = used.max(self.scratch.walker.evaluations - before) + 1;
        }
        self.sweep.evaluations += self.scratch.walker.evaluations - before;
        *left = left.saturating_sub(used);
        if next < end {
            return Stage::Repair { next, end };
        }
        match view.entry() {
            Some(entry) if self.sweep.doomed.contains(entry.slot) => {
                Stage::Entry { next: 0, best: None }
            }
            _ => Stage::Release { word: 0 },
        }
    }

    /// Looks for the live node on the highest layer (the lowest slot of those), for an entry that
    /// leaves.
    fn find_entry(
        &mut self,
        mut next: Slot,
        mut best: Option<Entry>,
        directory: &SlotDirectory,
        left: &mut u64,
    ) -> Stage {
        let view = &*self.view;
        let end = view.high.load(Ordering::Relaxed);
        while next < end {
            if *left == 0 {
                return Stage::Entry { next, best };
            }
            let stop = end.min(next + WORDS_PER_DISTANCE as u32);
            for slot in next..stop {
                if !view.is_linked(slot) || self.sweep.doomed.contains(slot) {
                    continue;
                }
                // One that is dead serves until the next pass, but only in want of a live one.
                let level = view.level_of(slot);
                let rank = |slot, level| (!directory.is_dead(slot), level);
                if best.is_none_or(|best| rank(slot, level) > rank(best.slot, best.level)) {
                    best = Some(Entry { slot, level });
                }
            }
            next = stop;
            *left -= 1;
        }
        // A node that was linked meanwhile may have become the entry.
        if view.entry().is_some_and(|entry| self.sweep.doomed.contains(entry.slot)) {
            view.set_entry(best);
        }
        Stage::Release { word: 0 }
    }

    /// Takes the doomed out of the index.
    fn release_doomed(&mut self, mut word: usize, left: &mut u64, freed: &mut Vec<Slot>) -> Stage {
        let view = &*self.view;
        while word < self.sweep.doomed.word_count() {
            if *left == 0 {
                return Stage::Release { word };
            }
            let mut bits = self.sweep.doomed.word(word);
            *left =
                left.saturating_sub(1 + u64::from(bits.count_ones()) / WORDS_PER_DISTANCE as u64);
            while bits != 0 {
                let slot = word as u32 * 64 + bits.trailing_zeros();
                release(view, slot);
                self.sweep.doomed.remove(slot);
                freed.push(slot);
                bits &= bits - 1;
            }
            word += 1;
        }
        self.sweep.doomed = SlotBitmap::new();
        Stage::Audit(Audit::begin(view))
    }

    /// Looks for nodes that are cut off.
    fn audit(
        &mut self,
        mut audit: Audit,
        directory: &SlotDirectory,
        left: &mut u64,
    ) -> Option<Stage> {
        let before = self.scratch.walker.evaluations;
        let is_through = audit.step(&self.view, directory, &mut self.scratch, left);
        self.sweep.evaluations += self.scratch.walker.evaluations - before;
        if is_through { None } else { Some(Stage::Audit(audit)) }
    }
}

/// The slot is no longer part of the index. Its rows stay for readers that stand on them.
fn release(view: &VectorView, slot: Slot) {
    view.present.clear_bit(slot as usize);
    let count = view.present_count.load(Ordering::Relaxed);
    view.present_count.store(count - 1, Ordering::Release);
}

#[cfg(test)]
mod tests;
