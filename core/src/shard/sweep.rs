//! From dead slots to free ones: out of the graphs, out of the property indexes, into the free
//! list once no reader can see them any more.

use heddle_index::{Quiescence, SweepState};
use heddle_types::Device;
use roaring::RoaringBitmap;

use super::Shard;
use crate::property::ReclaimCursor;

/// Dead slots below which a shard is not swept: a pass reads every slot.
const DEAD_SLOTS_MIN: u32 = 256;
/// A pass begins when one slot in so many is dead.
const DEAD_SLOT_RATIO: u32 = 32;
/// Distances that one step computes in a graph; looking at a slot counts as one.
const SWEEP_DISTANCES_STEP: usize = 1_024;
/// Values that one step looks at in the property indexes.
const RECLAIM_KEYS_STEP: usize = 512;

/// Steps of a sweep that come between two batches to be linked: about as many distances as a batch
/// takes.
const SWEEP_STEPS_PER_BATCH: u32 = 128;

/// Slots of replaced rows below which a replay keeps them.
const REPLACED_MIN: u64 = 4_096;

/// Where the sweep of a shard stands.
#[derive(Default)]
pub(super) struct SweepPhase {
    /// Steps that come before the next batch is handed out.
    owed_steps: u32,
    /// Dead slots that no vector index holds. They are out of the graphs, and wait.
    pub(super) released: RoaringBitmap,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// Passes of the vector indexes; those that are through are marked.
    Graphs { done: Vec<bool> },
    /// The slots that leave the property indexes.
    Properties { slots: RoaringBitmap, cursor: ReclaimCursor },
}

impl<D: Device> Shard<D> {
    /// Does one step of at most some 100 us. False when there is nothing to do now.
    pub(crate) fn sweep_step(&mut self, quiescence: &Quiescence) -> bool {
        if self.imaging.is_some() || self.lease.is_out() {
            return false;
        }
        self.phase.owed_steps = self.phase.owed_steps.saturating_sub(1);
        match std::mem::take(&mut self.phase.state) {
            State::Idle => self.begin_sweep(),
            State::Graphs { done } => {
                self.sweep_graphs(done);
                true
            }
            State::Properties { slots, mut cursor } => {
                if self.properties.reclaim_step(&slots, &mut cursor, RECLAIM_KEYS_STEP) {
                    self.phase.state = State::Properties { slots, cursor };
                } else {
                    let epoch = quiescence.retire_epoch();
                    slots.iter().for_each(|slot| self.directory.free(slot, epoch));
                }
                true
            }
        }
    }

    /// Would a step find something to do, apart from images and batches?
    pub(crate) fn wants_sweep(&self) -> bool {
        let directory = self.directory.view();
        let threshold = DEAD_SLOTS_MIN.max(directory.published() / DEAD_SLOT_RATIO);
        !matches!(self.phase.state, State::Idle) || directory.dead_count() >= threshold
    }

    /// A batch to be linked is handed out. While much is dead, linking and sweeping take turns: new
    /// vectors may never stop coming, and dead slots would pile up behind them.
    pub(crate) fn note_batch(&mut self) {
        self.phase.owed_steps = if self.wants_sweep() { SWEEP_STEPS_PER_BATCH } else { 0 };
    }

    /// Is it the sweep's turn?
    pub(crate) fn owes_sweep(&self) -> bool {
        self.phase.owed_steps > 0 && self.wants_sweep()
    }

    fn begin_sweep(&mut self) -> bool {
        if !self.wants_sweep() {
            return false;
        }
        self.phase.state = State::Graphs { done: vec![false; self.vectors.len()] };
        true
    }

    fn sweep_graphs(&mut self, mut done: Vec<bool>) {
        let directory = self.directory.view();
        let mut freed = Vec::new();
        // One index a step; all reports of a pass are in before any slot is used again.
        let next = done.iter().position(|done| !done);
        if let Some(index) = next {
            done[index] = match &mut self.vectors[index] {
                Some(vector) => {
                    vector.sweep_step(&directory, SWEEP_DISTANCES_STEP, &mut freed)
                        != SweepState::Running
                }
                None => true,
            };
        }
        let released = freed.into_iter().filter(|slot| !self.is_held(*slot));
        let released: RoaringBitmap = released.collect();
        self.phase.released |= released;
        if done.contains(&false) {
            self.phase.state = State::Graphs { done };
            return;
        }
        let waiting = std::mem::take(&mut self.phase.released);
        // A report may come twice; the second time the slot is free or in use again.
        let ready = |slot: &u32| directory.is_dead(*slot) && !self.is_held(*slot);
        let slots: RoaringBitmap = waiting.iter().filter(ready).collect();
        if !slots.is_empty() {
            self.phase.state = State::Properties { slots, cursor: ReclaimCursor::default() };
        }
    }

    /// Within a bulk, frees the slots of rows that were replaced before a graph knew them, once
    /// there are as many as live ones. Else a log of many updates of few objects makes a shard, and
    /// its next image, as large as the log.
    ///
    /// Cost: that of ending the bulk and of one pass over all values, shared by as many records as
    /// there are live rows.
    pub(crate) fn reuse_replaced(&mut self, quiescence: &Quiescence) {
        let live = u64::from(self.directory.view().live_count());
        if self.imaging.is_some() || self.phase.released.len() < REPLACED_MIN.max(live) {
            return;
        }
        let directory = self.directory.view();
        let released = std::mem::take(&mut self.phase.released);
        let unheld = |slot: &u32| directory.is_dead(*slot) && !self.is_held(*slot);
        let slots: RoaringBitmap = released.iter().filter(unheld).collect();
        self.properties.end_bulk();
        let mut cursor = ReclaimCursor::default();
        while self.properties.reclaim_step(&slots, &mut cursor, usize::MAX) {}
        self.properties.begin_bulk();
        let epoch = quiescence.retire_epoch();
        slots.iter().for_each(|slot| self.directory.free(slot, epoch));
    }

    /// After a restore: dead slots that no index holds would never be reported.
    pub(super) fn find_released(&mut self) {
        let directory = self.directory.view();
        let dead = (0..directory.published()).filter(|slot| directory.is_dead(*slot));
        let released = dead.filter(|slot| !self.is_held(*slot)).collect();
        self.phase.released = released;
    }
}
