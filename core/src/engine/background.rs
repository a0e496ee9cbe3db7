//! Background work in small steps: linking new vectors, sweeping dead slots, writing rows.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use heddle_index::{Choice, LinkBatch, LinkRows, LinkScratch, PrunedRows};
use heddle_types::{Clock, Device, DeviceError, ShardId, Slot};

use super::yielding::yield_now;
use super::{Engine, EngineError, ShardCell};
use crate::objects::ObjectError;
use crate::shard::{Shard, ShardView};

/// Shards that upkeep looks at before other tasks may run: about 50 us when none has work.
const SHARDS_PER_TURN: usize = 256;

/// Files of segments that a core keeps open although nobody reads them: the shards of tenants are
/// many, and a process has its limit of open files.
pub(super) const SEGMENT_FILES_MAX: usize = 1_024;

/// What all parts of a batch share.
#[derive(Clone, Debug)]
struct Origin {
    view: Arc<ShardView>,
    vector: usize,
    /// While it is held the shard neither sweeps nor hands out another batch.
    _lease: Arc<()>,
}

/// Slots whose place in the graph is to be found: the larger part of an insert, for any core.
#[derive(Debug)]
pub struct IndexBatch {
    origin: Origin,
    batch: Arc<LinkBatch>,
    members: Range<usize>,
}

/// The links that the slots of a batch or of a part of it ask for, on their way home.
#[derive(Debug)]
pub struct IndexedBatch {
    origin: Origin,
    batch: Arc<LinkBatch>,
    choices: Vec<Choice>,
}

/// A whole batch at home: some of the rows it changes are to be chosen anew, then all are written.
#[derive(Debug)]
pub struct RowBatch {
    origin: Origin,
    rows: LinkRows,
    pruned: Vec<PrunedRows>,
    next_target: usize,
}

/// How far linking a batch came.
#[derive(Debug)]
pub enum LinkProgress {
    /// All linked, or the shard is gone.
    Done,
    /// The budget is used up; call again with what is left.
    More(RowBatch),
    /// An image of the shard is being written; call again after [`Engine::background_work`].
    Paused(RowBatch),
}

impl IndexBatch {
    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.origin.view.id
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Are there no slots?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Cuts the batch for several cores. However it is cut, the graph is the same.
    #[must_use]
    pub fn split(self, parts: usize) -> Vec<Self> {
        let size = self.len().div_ceil(parts.max(1)).max(1);
        let end = self.members.end;
        let part = |start: usize| Self {
            origin: self.origin.clone(),
            batch: Arc::clone(&self.batch),
            members: start..end.min(start + size),
        };
        self.members.clone().step_by(size).map(part).collect()
    }

    /// Searches the neighbours of every slot and chooses its links. The core holds its pin
    /// meanwhile.
    ///
    /// Cost: about an `ef_construction` search a slot; take small batches where others wait.
    #[must_use]
    pub fn search(self, scratch: &mut LinkScratch) -> IndexedBatch {
        let directory = &self.origin.view.directory;
        let find = |member| self.batch.find(directory, member, scratch);
        let choices = self.members.map(find).collect();
        IndexedBatch { origin: self.origin, batch: self.batch, choices }
    }
}

impl IndexedBatch {
    /// Puts the parts of one batch together, in any order. `None`: a part is missing; the batch
    /// goes back.
    #[must_use]
    pub fn gather(parts: Vec<Self>) -> Option<RowBatch> {
        let first = parts.first()?;
        let (origin, batch) = (first.origin.clone(), Arc::clone(&first.batch));
        let is_whole = parts.iter().all(|part| Arc::ptr_eq(&part.batch, &batch))
            && parts.iter().map(|part| part.choices.len()).sum::<usize>() == batch.len();
        let choices = parts.into_iter().flat_map(|part| part.choices);
        is_whole.then(|| RowBatch {
            origin,
            rows: batch.gather(choices.collect()),
            pruned: Vec::new(),
            next_target: 0,
        })
    }
}

/// The lease of the batch that is out for a shard.
#[derive(Debug, Default)]
pub(crate) struct Lease(Weak<()>);

impl Lease {
    pub(crate) fn is_out(&self) -> bool {
        self.0.strong_count() > 0
    }

    fn take(&mut self) -> Arc<()> {
        let lease = Arc::new(());
        self.0 = Arc::downgrade(&lease);
        lease
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Waits until something happened that may be work for the steps of this core.
    ///
    /// Call it when `index_batch`, `sweep_step`, `maintain` and `checkpoint_due` had nothing; take
    /// the [`Engine::background_version`] before they were asked, so that nothing is missed.
    pub async fn background_work(&self, seen: u64) {
        self.inner.background.wait_until(|| self.background_version() != seen).await;
    }

    /// Counts the events that may have made background work.
    #[must_use]
    pub fn background_version(&self) -> u64 {
        let state = self.inner.state.borrow();
        state.applied_lsn.0 + state.background_events
    }

    pub(super) fn wake_background(&self) {
        self.inner.state.borrow_mut().background_events += 1;
        self.inner.background.notify();
    }

    /// Up to `limit` stored vectors that wait for their place in a graph; `None` when none wait.
    ///
    /// Shards take turns, and where much is dead so do batches and steps of the sweep: `None` may
    /// mean that [`Engine::sweep_step`] comes first. At most one batch is out a shard; dropping a
    /// batch gives it back. The graph depends on the batch size, and on nothing else but the order
    /// of the writes.
    #[must_use]
    pub fn index_batch(&self, limit: usize) -> Option<IndexBatch> {
        let cells = self.cells_at_work();
        let (cell, batch) =
            cells.iter().find_map(|cell| Some((cell, self.batch_of(cell, limit)?)))?;
        self.inner.state.borrow_mut().turn = cell.id;
        Some(batch)
    }

    fn batch_of(&self, cell: &ShardCell<D>, limit: usize) -> Option<IndexBatch> {
        let mut shard = cell.shard.borrow_mut();
        let pauses = shard.is_imaging()
            || shard.lease.is_out()
            || shard.owes_sweep()
            || cell.book.borrow().link_failed;
        if shard.is_imaging() {
            cell.pacing.borrow_mut().note_pause();
        }
        if pauses {
            return None;
        }
        let (vector, batch) =
            shard.vectors().find_map(|(at, writer)| Some((at, writer.begin_batch(limit)?)))?;
        shard.note_batch();
        let view = Arc::clone(shard.view());
        let members = 0..batch.len();
        let origin = Origin { view, vector, _lease: shard.lease.take() };
        drop(shard);
        self.note_link_begun(cell);
        Some(IndexBatch { origin, batch: Arc::new(batch), members })
    }

    /// Chooses up to `rows_max` rows of a searched batch anew where they would overflow; when all
    /// are looked at, links the whole batch.
    ///
    /// Cost: up to 10 us a row, and at the end a few us a slot. Lack of memory leaves slots where
    /// exact scans find them; linking of the shard then pauses until its next image.
    pub fn link_batch(
        &self,
        mut batch: RowBatch,
        rows_max: usize,
        scratch: &mut LinkScratch,
    ) -> LinkProgress {
        let Ok(cell) = self.cell(batch.origin.view.id) else { return LinkProgress::Done };
        let mut shard = cell.shard.borrow_mut();
        let directory = shard.directory();
        let (start, count) = (batch.next_target, batch.rows.target_count());
        if start < count {
            batch.next_target = count.min(start.saturating_add(rows_max.max(1)));
            let pruned = batch.rows.prune(&directory, start..batch.next_target, scratch);
            batch.pruned.push(pruned);
            return LinkProgress::More(batch);
        }
        if shard.is_imaging() {
            cell.pacing.borrow_mut().note_pause();
            return LinkProgress::Paused(batch);
        }
        let Some(writer) = shard.vector_mut(batch.origin.vector) else {
            return LinkProgress::Done;
        };
        let linked = writer.commit_batch(&batch.rows, &batch.pruned, &directory);
        let linked = linked.unwrap_or_else(|error| {
            tracing::warn!(shard = cell.id.0, %error, "linking pauses");
            cell.book.borrow_mut().link_failed = true;
            0
        });
        // Linking may have moved an arena.
        self.republish(&mut shard);
        drop(shard);
        self.note_linked(&cell, linked as u64);
        LinkProgress::Done
    }

    /// One step of removing dead slots from graphs and property indexes, on the next shard that
    /// has any to do. False when none has.
    pub fn sweep_step(&self) -> bool {
        for cell in self.cells_at_work() {
            let mut shard = cell.shard.borrow_mut();
            if shard.sweep_step(&self.inner.quiescence) {
                self.republish(&mut shard);
                drop(shard);
                self.note_relief(&cell);
                self.inner.state.borrow_mut().turn = cell.id;
                return true;
            }
            drop(shard);
            if is_quiet(&cell) {
                self.inner.state.borrow_mut().work.remove(&cell.id);
            }
        }
        false
    }

    /// One unit of row upkeep a shard: a full memtable is written, or mostly dead segments are
    /// rewritten. Or log that nobody needs is given up. False when there was nothing to do.
    ///
    /// Unless space is short, nothing is rewritten while the log waits for an image, see
    /// [`Engine::checkpoint_due`]: write images before. A node that is killed early would else
    /// rewrite rows in each of its lives, write an image in none, and replay more at every start.
    ///
    /// Errors: the device's or damage in a segment; rows stay where they were. A shard that fails
    /// does not keep the others from their turn; the first error is returned. A full disk makes
    /// writes fail with `DiskFull` once memory is used up, until a later call succeeds.
    pub async fn maintain(&self) -> Result<bool, EngineError> {
        self.rest_files();
        let (mut is_worked, mut first_error) = (false, None);
        for (position, cell) in self.cells_in_turn().into_iter().enumerate() {
            if position % SHARDS_PER_TURN == SHARDS_PER_TURN - 1 {
                yield_now().await;
            }
            match self.maintain_shard(&cell).await {
                Ok(done) => is_worked |= done,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if self.has_log_to_release() {
            self.release_log().await?;
        }
        first_error.map_or(Ok(is_worked), Err)
    }

    /// Closes files that nobody has read lately when there are many.
    fn rest_files(&self) {
        let cells = self.cells();
        let open: usize = cells.iter().map(|cell| cell.shard.borrow().objects.open_files()).sum();
        if open > SEGMENT_FILES_MAX {
            cells.iter().for_each(|cell| cell.shard.borrow().objects.rest_files());
        }
    }

    async fn maintain_shard(&self, cell: &ShardCell<D>) -> Result<bool, EngineError> {
        if cell.dropped.get() {
            // While another one had its turn; its directory is being removed.
            return Ok(false);
        }
        // A table that could not be written waits outside of the one that fills up again.
        let needs_flush =
            cell.book.borrow().flush_failed || cell.shard.borrow().objects.needs_flush();
        if needs_flush && self.flush_rows(cell).await? {
            return Ok(true);
        }
        self.compact(cell).await
    }

    /// Writes the memtable of a shard. False when it is empty or being written already.
    pub(super) async fn flush_rows(&self, cell: &ShardCell<D>) -> Result<bool, EngineError> {
        let job = cell.shard.borrow_mut().objects.begin_flush();
        let Some(job) = job else { return Ok(false) };
        let mut upkeep = Upkeep::begin(self, cell, UpkeepKind::Flush);
        let flushed = job.run().await;
        upkeep.came_back = true;
        let finished = cell.shard.borrow_mut().objects.finish_flush(flushed);
        cell.book.borrow_mut().flush_failed = finished.is_err();
        drop(upkeep);
        finished.map_err(|source| EngineError::Objects { shard: cell.id, source })?;
        Ok(true)
    }

    async fn compact(&self, cell: &ShardCell<D>) -> Result<bool, EngineError> {
        let Some(pressure) = self.compaction_pressure() else { return Ok(false) };
        // The cheap question first: the other one asks all shards.
        if !cell.shard.borrow().objects.has_compaction(pressure) || self.is_image_awaited() {
            return Ok(false);
        }
        let image_bytes = cell.book.borrow().image_bytes;
        let room_bytes = self.compaction_room(image_bytes).await?;
        let job = {
            let mut shard = cell.shard.borrow_mut();
            // An image that is being written refers to the segments as they are.
            if cell.book.borrow().imaging || cell.dropped.get() {
                return Ok(false);
            }
            shard.objects.begin_compaction(pressure, room_bytes)
        };
        let Some(job) = job else { return Ok(false) };
        let mut upkeep = Upkeep::begin(self, cell, UpkeepKind::Compaction);
        let rests_there = |slot, location| cell.shard.borrow().rests_at(slot, location);
        let goes_on = || !self.is_image_wanted(cell);
        let compacted = job.run(&rests_there, &goes_on).await;
        upkeep.came_back = true;
        match &compacted {
            Ok(compacted) => self.charge_compaction(compacted.io_bytes()),
            // What was read for nothing is the disk's time as well.
            Err(ObjectError::GivenUp { read_bytes }) => self.charge_compaction(*read_bytes),
            Err(_) => {}
        }
        let finished = cell.shard.borrow_mut().finish_compaction(compacted);
        drop(upkeep);
        match finished {
            Ok(()) => Ok(true),
            Err(ObjectError::GivenUp { .. }) => Ok(false),
            Err(source) => Err(EngineError::Objects { shard: cell.id, source }),
        }
    }

    /// Does an image of the shard wait for the compaction to end?
    fn is_image_wanted(&self, cell: &ShardCell<D>) -> bool {
        let book = cell.book.borrow();
        let is_due = book.log_bytes >= self.inner.config.checkpoint_log_bytes;
        book.imaging || (is_due && !book.image_failed && !book.poisoned)
    }

    /// The shards in which there may be something to link or to sweep, the one after the last
    /// served first.
    fn cells_at_work(&self) -> Vec<Rc<ShardCell<D>>> {
        let state = self.inner.state.borrow();
        let after =
            state.work.range((std::ops::Bound::Excluded(state.turn), std::ops::Bound::Unbounded));
        let ids = after.chain(state.work.range(..=state.turn));
        ids.filter_map(|id| state.shards.get(id).cloned()).collect()
    }

    /// All shards, the one after the last served first.
    fn cells_in_turn(&self) -> Vec<Rc<ShardCell<D>>> {
        let state = self.inner.state.borrow();
        let after =
            state.shards.range((std::ops::Bound::Excluded(state.turn), std::ops::Bound::Unbounded));
        let before = state.shards.range(..=state.turn);
        after.chain(before).map(|(_, cell)| Rc::clone(cell)).collect()
    }
}

/// Is there nothing to link or to sweep in a shard until a record, an image or a batch ends that?
fn is_quiet<D: Device>(cell: &ShardCell<D>) -> bool {
    let shard = cell.shard.borrow();
    let is_linked = || shard.vectors().all(|(_, vector)| vector.backlog() == 0);
    !shard.is_imaging()
        && !shard.lease.is_out()
        && !shard.wants_sweep()
        && (cell.book.borrow().link_failed || is_linked())
}

/// A flush or compaction under way; when its future is dropped in an await, the store learns that
/// the job is not coming back and may begin another.
struct Upkeep<'a, D: Device, C: Clock> {
    engine: Engine<D, C>,
    cell: &'a ShardCell<D>,
    kind: UpkeepKind,
    came_back: bool,
}

#[derive(Clone, Copy)]
enum UpkeepKind {
    Flush,
    Compaction,
}

impl<'a, D: Device, C: Clock> Upkeep<'a, D, C> {
    fn begin(engine: &Engine<D, C>, cell: &'a ShardCell<D>, kind: UpkeepKind) -> Self {
        match kind {
            UpkeepKind::Flush => cell.book.borrow_mut().flushing = true,
            UpkeepKind::Compaction => cell.book.borrow_mut().compacting = true,
        }
        Self { engine: engine.clone(), cell, kind, came_back: false }
    }
}

impl<D: Device, C: Clock> Drop for Upkeep<'_, D, C> {
    fn drop(&mut self) {
        if !self.came_back {
            let error = DeviceError::Io {
                path: self.cell.shard.borrow().spec.directory.clone(),
                operation: "write",
                os_code: None,
                source_text: "given up".to_owned(),
            };
            let mut shard = self.cell.shard.borrow_mut();
            // Both pass the error through; what it says is known here.
            let _given_up = match self.kind {
                UpkeepKind::Flush => {
                    self.cell.book.borrow_mut().flush_failed = true;
                    shard.objects.finish_flush(Err(error.into()))
                }
                UpkeepKind::Compaction => shard.finish_compaction(Err(error.into())),
            };
        }
        match self.kind {
            UpkeepKind::Flush => self.cell.book.borrow_mut().flushing = false,
            UpkeepKind::Compaction => self.cell.book.borrow_mut().compacting = false,
        }
        self.engine.inner.settled.notify();
    }
}

impl<D: Device> Shard<D> {
    /// Does the live object of a slot rest at this place?
    fn rests_at(&self, slot: Slot, location: crate::objects::Location) -> bool {
        let directory = self.directory();
        directory.is_live(slot) && self.facts(slot).location == location
    }

    /// Puts a compaction's result in place.
    fn finish_compaction(
        &mut self,
        compacted: Result<crate::objects::Compacted<D>, ObjectError>,
    ) -> Result<(), ObjectError> {
        for moved in self.objects.finish_compaction(compacted)? {
            if self.rests_at(moved.slot, moved.from) {
                self.set_location(moved.slot, moved.to);
            } else {
                self.objects.forget(moved.to);
            }
        }
        Ok(())
    }
}
