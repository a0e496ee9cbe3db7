//! Writing images while serving, and giving up the log that they cover.

use std::cell::Ref;
use std::rc::Rc;

use heddle_types::limits::CHECKPOINT_CHUNK_BYTES;
use heddle_types::{Clock, Device, DeviceError, Lsn, ShardId};

use super::rebuild::Absent;
use super::recover::{LOGS, REMOVED_SUFFIX, log_directory};
use super::yielding::yield_now;
use super::{Book, Engine, EngineError, ShardCell, SpaceLevel};
use crate::checkpoint::{
    CheckpointError, ImageWriter, SectionId, image_file_bytes, next_generation,
};
use crate::property::PropertyCursor;
use crate::shard::image::{
    DIRECTORY, FACTS_BYTES, ImageMeta, ImagePlan, PROPERTIES, SLOTS, TOMBSTONES, vector_section,
};
use crate::shard::rebuild::encode_ledger;

/// Smallest property section, bytes.
const PROPERTY_SECTION_BYTES: usize = 1 << 20;
/// Property indexes are cut into about so many sections at most.
const PROPERTY_SECTIONS_AIM: usize = 512;
/// Bytes of property indexes that are encoded before other tasks may run: the slots of one value
/// that a hundred thousand rows have.
const PROPERTY_STEP_BYTES: usize = 16 << 10;
/// Tombstones that are encoded before other tasks may run.
const TOMBSTONES_PER_STEP: usize = 4_096;
/// Slots that died during an image and are taken out of the graphs before other tasks may run.
const KILLS_PER_STEP: usize = 512;
/// Bytes of given up segments that wait for an image before one is written for their sake, beside
/// their share of the segments in use (64 MiB).
const RETIRED_BYTES_MAX: u64 = 64 << 20;
/// An image is written for the sake of space when it gives back a quarter of what rows take, or,
/// once space is short, of what the last image took.
const RETIRED_SHARE: u64 = 4;
/// Once this part of the log bytes that make an image due had to be replayed at a start, one is
/// written soon after it: a node that is killed again and again must not replay ever more.
const REPLAYED_SHARE: u64 = 4;
/// Log files beside the records: the segment in use and the spare one are never given up.
const LOG_SEGMENTS_MIN: u64 = 4;

/// What the length of the whole log asks for.
struct LogPressure {
    /// It is longer than it may be.
    is_long: bool,
    /// A shard that cannot have an image now holds it from here on.
    held_at: Option<Lsn>,
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// The shards whose image is due: by log bytes of their own or by what the start had to replay,
    /// or all with changes when the log is too long; the one that holds back most of the log first.
    /// While a shard's image fails or a shard is quarantined, the log is long for its sake, and
    /// images of shards that changed later would not shorten it.
    #[must_use]
    pub fn checkpoint_due(&self) -> Vec<ShardId> {
        let cells = self.cells();
        let log = self.log_pressure(&cells);
        let mut due: Vec<(Option<Lsn>, ShardId)> = Vec::new();
        for cell in &cells {
            let book = cell.book.borrow();
            let is_due = self.is_due_for_log(&book, &log) || self.gives_space_back(cell);
            if is_due && !book.imaging && !book.poisoned {
                due.push((book.first_unimaged, cell.id));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, shard)| shard).collect()
    }

    /// The shards with changes whose last image is so old; one without is as old as the engine.
    #[must_use]
    pub fn images_older_than(&self, interval_us: u64, uptime_us: u64) -> Vec<ShardId> {
        let now_us = self.inner.clock.unix_us();
        let is_old = |cell: &Rc<ShardCell<D>>| {
            let book = cell.book.borrow();
            let age_us = match book.generation {
                0 => uptime_us,
                _ => now_us.saturating_sub(book.imaged_us).min(uptime_us),
            };
            // Segments that only the last image refers to go with the next one.
            let has_retired = || cell.shard.borrow().objects.has_retired();
            age_us >= interval_us && (book.log_bytes > 0 || has_retired())
        };
        self.cells().iter().filter(|cell| is_old(cell)).map(|cell| cell.id).collect()
    }

    /// Does the log wait for an image that could be written now? Rewriting rows waits for it, but
    /// not when space is short: what it gives back is needed then, and images come in between.
    pub(super) fn is_image_awaited(&self) -> bool {
        if self.space() > SpaceLevel::Plenty {
            return false;
        }
        let cells = self.cells();
        let log = self.log_pressure(&cells);
        cells.iter().any(|cell| {
            let book = cell.book.borrow();
            // One that failed is tried again later; meanwhile rows are rewritten.
            let may_try = !book.imaging && !book.poisoned && !book.image_failed;
            may_try && self.is_due_for_log(&book, &log)
        })
    }

    fn log_pressure(&self, cells: &[Rc<ShardCell<D>>]) -> LogPressure {
        let config = &self.inner.config;
        let log_limit = config.log_bytes_max.max(LOG_SEGMENTS_MIN * config.wal.segment_bytes);
        let is_long = self.inner.wal.stats().segment_bytes >= log_limit;
        // No image can free what these hold: one failed, the other is never written.
        let holds = |book: &Ref<'_, Book>| book.image_failed || book.poisoned;
        let holding = cells.iter().map(|cell| cell.book.borrow()).filter(holds);
        let held_at = holding.filter_map(|book| book.first_unimaged);
        LogPressure { is_long, held_at: held_at.chain(self.unserved_need_from()).min() }
    }

    fn is_due_for_log(&self, book: &Book, log: &LogPressure) -> bool {
        let limit = self.inner.config.checkpoint_log_bytes;
        let holds_log =
            book.first_unimaged.is_some_and(|own| log.held_at.is_none_or(|at| own <= at));
        let is_much = book.log_bytes >= limit || book.replayed_bytes >= limit / REPLAYED_SHARE;
        book.needs_image || (book.first_unimaged.is_some() && is_much) || (log.is_long && holds_log)
    }

    /// Is there enough in segments that only the last image refers to that the next one is worth
    /// writing for their sake? The shorter space is, the less is enough; but never far less than
    /// what the image itself may have to write.
    fn gives_space_back(&self, cell: &ShardCell<D>) -> bool {
        let rows = cell.shard.borrow().objects.stats();
        let image_bytes = cell.book.borrow().image_bytes;
        let enough = RETIRED_BYTES_MAX.max(rows.disk_bytes / RETIRED_SHARE);
        match self.space() {
            SpaceLevel::Plenty => rows.retired_bytes > enough,
            _ => rows.retired_bytes > enough.min(image_bytes / RETIRED_SHARE),
        }
    }

    /// The shards that changed since their last image; for a clean stop.
    #[must_use]
    pub fn changed_shards(&self) -> Vec<ShardId> {
        let has_changes = |cell: &Rc<ShardCell<D>>| {
            let book = cell.book.borrow();
            book.first_unimaged.is_some() || book.needs_image
        };
        self.cells().iter().filter(|cell| has_changes(cell)).map(|cell| cell.id).collect()
    }

    /// Writes an image of a shard while it serves, then releases the log that no shard needs.
    ///
    /// When this returns, an image holds every change that was applied before the call; one that
    /// another call writes meanwhile counts if it does. Errors: the image before stays in place and
    /// the log is kept; try again later. A poisoned shard is passed over: its image would claim to
    /// cover a record that is only in the log. Needs no other task to run. Linking, sweeping and
    /// compaction of the shard pause meanwhile; a compaction that has begun gives up.
    pub async fn checkpoint(&self, shard: ShardId) -> Result<(), EngineError> {
        let no_shard = || EngineError::NoShard { shard };
        let cell = self.cell(shard).map_err(|_unavailable| no_shard())?;
        let needed = self.inner.state.borrow().applied_lsn;
        let is_busy = || cell.book.borrow().imaging;
        let mut has_waited = false;
        while is_busy() {
            has_waited = true;
            self.inner.settled.wait_until(|| !is_busy()).await;
        }
        if has_waited && cell.book.borrow().is_imaged(needed) {
            return Ok(());
        }
        let imaging = Imaging::begin(self, &cell);
        self.inner.settled.wait_until(|| !cell.book.borrow().compacting).await;
        // Looked at after the last wait: a record may have failed to apply meanwhile.
        if cell.dropped.get() {
            return Err(no_shard());
        }
        if cell.book.borrow().poisoned {
            return Ok(());
        }
        let (plan, covers) = self.plan_image(&cell);
        let written = self.write_image(&cell, plan, covers).await;
        while cell.shard.borrow_mut().settle_kills(KILLS_PER_STEP) {
            yield_now().await;
        }
        drop(imaging);
        cell.book.borrow_mut().image_failed = written.is_err();
        written?;
        self.remove_segments(&cell).await?;
        self.release_log().await
    }

    /// Fixes what the image covers. From here on the book counts what it does not.
    fn plan_image(&self, cell: &ShardCell<D>) -> (ImagePlan, Lsn) {
        let covers = self.inner.state.borrow().applied_lsn;
        let taken_us = self.inner.clock.unix_us();
        let plan = cell.shard.borrow_mut().begin_image(self.log_index(), taken_us);
        cell.book.borrow_mut().first_since_begin = None;
        (plan, covers)
    }

    pub(super) fn log_index(&self) -> u32 {
        self.inner.config.log_indexes.first().copied().unwrap_or_default()
    }

    async fn write_image(
        &self,
        cell: &Rc<ShardCell<D>>,
        mut plan: ImagePlan,
        covers: Lsn,
    ) -> Result<(), EngineError> {
        let log_bytes = cell.book.borrow().log_bytes;
        self.flush_all_rows(cell).await?;
        {
            let objects = &mut cell.shard.borrow_mut().objects;
            plan.meta.segments = objects.sealed_segments();
            objects.begin_checkpoint();
        }
        let failed = |source| EngineError::Checkpoint { shard: cell.id, source };
        let directory = cell.shard.borrow().spec.directory.clone();
        let (committed, tried) = {
            let book = cell.book.borrow();
            (book.generation, book.tried_generation)
        };
        let next = next_generation(&self.inner.device, &directory, committed, tried).await;
        let generation = next.map_err(failed)?;
        cell.book.borrow_mut().tried_generation = generation;
        self.write_sections(cell, &mut plan, generation, covers).await.map_err(failed)?;
        let files = cell.previous.borrow().files().to_vec();
        let image_bytes = image_file_bytes(&self.inner.device, &directory, &files).await?;
        let mut book = cell.book.borrow_mut();
        book.generation = generation;
        book.image_bytes = image_bytes;
        book.covers = covers;
        book.imaged_us = plan.meta.taken_us;
        book.first_unimaged = book.first_since_begin.take();
        book.log_bytes = book.log_bytes.saturating_sub(log_bytes);
        book.replayed_bytes = 0;
        book.needs_image = false;
        book.link_failed = false;
        Ok(())
    }

    /// Flushes until every row there is now is on disk.
    async fn flush_all_rows(&self, cell: &Rc<ShardCell<D>>) -> Result<(), EngineError> {
        let watermark = cell.shard.borrow().objects.watermark();
        while !cell.shard.borrow().objects.is_sealed(watermark) {
            self.inner.settled.wait_until(|| !cell.book.borrow().flushing).await;
            self.flush_rows(cell).await?;
        }
        Ok(())
    }

    async fn write_sections(
        &self,
        cell: &Rc<ShardCell<D>>,
        plan: &mut ImagePlan,
        generation: u64,
        covers: Lsn,
    ) -> Result<(), CheckpointError> {
        let directory = cell.shard.borrow().spec.directory.clone();
        let device = self.inner.device.clone();
        let writer = ImageWriter::begin(device, &directory, cell.id, generation).await?;
        // Taken: after an image that failed the next one is written whole.
        let mut writer = writer.with_previous(cell.previous.take());
        let tombstones = match write_all(cell, plan, &mut writer).await {
            Ok(tombstones) => tombstones,
            Err(error) => {
                // The temporary file is removed by the next image or start if this fails too.
                let _left_behind = writer.abort().await;
                return Err(error);
            }
        };
        let meta = serde_json::to_vec(&plan.meta).expect("the meta is plain data");
        writer.ledger(&encode_ledger(&plan.meta, &tombstones)).await?;
        let written = writer.commit_and_keep(covers, &meta).await?;
        cell.previous.replace(written);
        Ok(())
    }

    /// Removes object segments that only older images referred to.
    async fn remove_segments(&self, cell: &Rc<ShardCell<D>>) -> Result<(), EngineError> {
        let job = cell.shard.borrow_mut().objects.begin_removal();
        let Some(job) = job else { return Ok(()) };
        let removed = job.run().await;
        let finished = cell.shard.borrow_mut().objects.finish_removal(removed);
        finished.map_err(|source| EngineError::Objects { shard: cell.id, source })
    }

    /// Gives up log records that every shard's image covers, and logs of earlier runs.
    pub(super) async fn release_log(&self) -> Result<(), EngineError> {
        if self.inner.log_holds.get() > 0 {
            // A backup copies it; the next image or step of upkeep gives it up.
            return Ok(());
        }
        self.renew_high_water(self.records_needed_from());
        self.inner.wal.release(self.log_needed_from()).await?;
        while self.may_remove_old_logs() {
            let Some(log_index) = self.inner.state.borrow_mut().old_logs.pop() else { break };
            if let Err(error) = self.remove_old_log(log_index).await {
                self.inner.state.borrow_mut().old_logs.push(log_index);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn may_remove_old_logs(&self) -> bool {
        let needs_old = self.cells().iter().any(|cell| cell.book.borrow().needs_image)
            || self.quarantine_needs_from().is_some()
            || !self.is_high_water_own();
        let state = self.inner.state.borrow();
        !needs_old && !state.absent.values().any(Absent::needs_old) && !state.old_logs.is_empty()
    }

    /// A log that lacks some of its segments is damage, so it goes by one rename.
    async fn remove_old_log(&self, log_index: u32) -> Result<(), DeviceError> {
        let device = &self.inner.device;
        let directory = log_directory(log_index);
        let removed = format!("{directory}{REMOVED_SUFFIX}");
        device.remove_tree(&removed).await?;
        match device.rename(&directory, &removed).await {
            Ok(()) | Err(DeviceError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        device.sync_dir(LOGS).await?;
        device.remove_tree(&removed).await?;
        device.sync_dir(LOGS).await
    }

    /// Is there log that no shard needs any more?
    pub(super) fn has_log_to_release(&self) -> bool {
        self.inner.log_holds.get() == 0 && self.is_log_releasable()
    }

    fn is_log_releasable(&self) -> bool {
        self.may_remove_old_logs() || self.inner.wal.has_releasable(self.log_needed_from())
    }

    /// The first record that the log has to keep.
    fn log_needed_from(&self) -> Lsn {
        let needed = self.records_needed_from();
        self.high_water_needs_from().map_or(needed, |kept| kept.min(needed))
    }

    /// The first record that is not in the image of its shard.
    fn records_needed_from(&self) -> Lsn {
        let unimaged = self.cells().into_iter().filter_map(|cell| {
            let book = cell.book.borrow();
            book.first_unimaged
        });
        let unimaged = unimaged.chain(self.unserved_need_from()).min();
        let state = self.inner.state.borrow();
        let unapplied = state.pending.front().map(|first| first.lsn);
        // Behind the last applied record there may be some that belong to no shard.
        let behind = if unapplied.is_none() { self.inner.wal.durable_lsn() } else { Lsn(0) };
        let all = Lsn(state.applied_lsn.max(behind).0 + 1);
        unimaged.into_iter().chain(unapplied).fold(all, Lsn::min)
    }
}

/// Writes all sections. Gives back the tombstones, which the ledger repeats.
async fn write_all<D: Device>(
    cell: &Rc<ShardCell<D>>,
    plan: &mut ImagePlan,
    writer: &mut ImageWriter<D>,
) -> Result<Vec<u8>, CheckpointError> {
    let slots = plan.meta.slots;
    let directory = &plan.view.directory;
    for (part, section) in (0..).zip(directory.image_plan(slots)) {
        let read = |offset, out: &mut [u8]| {
            directory.image_read(slots, part as usize, offset, out);
        };
        write_stream(writer, DIRECTORY + part, section.bytes, read).await?;
    }
    write_facts(cell, slots, writer).await?;
    let tombstones = encode_tombstones(cell, plan.meta.writers.len()).await;
    writer.section(SectionId(TOMBSTONES), tombstones.len() as u64).await?;
    writer.write(&tombstones).await?;
    for index in plan.meta.vectors.iter().map(|index| usize::from(*index)) {
        let Some(view) = plan.view.vector(index) else { continue };
        for (part, section) in (0..).zip(view.image_plan(slots)) {
            let read = |offset, out: &mut [u8]| view.image_read(slots, part as usize, offset, out);
            write_stream(writer, vector_section(index) + part, section.bytes, read).await?;
        }
    }
    write_properties(cell, &mut plan.meta, writer).await?;
    Ok(tombstones)
}

/// Writes a section that can be read in pieces.
async fn write_stream<D: Device>(
    writer: &mut ImageWriter<D>,
    section: u32,
    bytes: u64,
    read: impl Fn(u64, &mut [u8]),
) -> Result<(), CheckpointError> {
    writer.section(SectionId(section), bytes).await?;
    let mut piece =
        vec![0; CHECKPOINT_CHUNK_BYTES.min(usize::try_from(bytes).unwrap_or(usize::MAX))];
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        let piece = &mut piece[..left.min(CHECKPOINT_CHUNK_BYTES)];
        read(offset, piece);
        writer.write(piece).await?;
        offset += piece.len() as u64;
        yield_now().await;
    }
    Ok(())
}

/// All tombstones that the image can name.
async fn encode_tombstones<D: Device>(cell: &Rc<ShardCell<D>>, writers: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut after = None;
    loop {
        let last =
            cell.shard.borrow().encode_tombstones(after, TOMBSTONES_PER_STEP, writers, &mut out);
        if last.is_none() {
            return out;
        }
        after = last;
        yield_now().await;
    }
}

async fn write_facts<D: Device>(
    cell: &Rc<ShardCell<D>>,
    slots: u32,
    writer: &mut ImageWriter<D>,
) -> Result<(), CheckpointError> {
    let per_piece = u32::try_from(CHECKPOINT_CHUNK_BYTES / FACTS_BYTES).expect("a few thousand");
    writer.section(SectionId(SLOTS), u64::from(slots) * FACTS_BYTES as u64).await?;
    let mut piece = Vec::with_capacity(CHECKPOINT_CHUNK_BYTES);
    let mut first = 0;
    while first < slots {
        let end = slots.min(first + per_piece);
        piece.clear();
        cell.shard.borrow().encode_facts(first..end, &mut piece);
        writer.write(&piece).await?;
        first = end;
        yield_now().await;
    }
    Ok(())
}

async fn write_properties<D: Device>(
    cell: &Rc<ShardCell<D>>,
    meta: &mut ImageMeta,
    writer: &mut ImageWriter<D>,
) -> Result<(), CheckpointError> {
    let in_memory = cell.shard.borrow().properties().memory_bytes();
    let section_bytes = PROPERTY_SECTION_BYTES.max(in_memory / PROPERTY_SECTIONS_AIM);
    let mut cursor = PropertyCursor::default();
    let mut more = !meta.layout.is_empty();
    while more {
        let mut chunk = Vec::new();
        while more && chunk.len() < section_bytes {
            more = encode_step(cell, &mut cursor, meta.slots, &mut chunk);
            yield_now().await;
        }
        let section = SectionId(PROPERTIES + meta.property_sections);
        writer.section(section, chunk.len() as u64).await?;
        writer.write(&chunk).await?;
        meta.property_sections += 1;
    }
    Ok(())
}

/// Encodes a little more of the property indexes. False when all of it is encoded.
fn encode_step<D: Device>(
    cell: &ShardCell<D>,
    cursor: &mut PropertyCursor,
    slots: u32,
    chunk: &mut Vec<u8>,
) -> bool {
    let aim = chunk.len() + PROPERTY_STEP_BYTES;
    cell.shard.borrow().properties().encode_chunk(cursor, slots, aim, chunk)
}

/// An image in the making; ends the pause of the shard when dropped, also in an await.
pub(super) struct Imaging<D: Device, C: Clock> {
    engine: Engine<D, C>,
    cell: Rc<ShardCell<D>>,
}

impl<D: Device, C: Clock> Imaging<D, C> {
    pub(super) fn begin(engine: &Engine<D, C>, cell: &Rc<ShardCell<D>>) -> Self {
        let mut book = cell.book.borrow_mut();
        assert!(!book.imaging, "one image of a shard at a time");
        book.imaging = true;
        drop(book);
        Self { engine: engine.clone(), cell: Rc::clone(cell) }
    }
}

impl<D: Device, C: Clock> Drop for Imaging<D, C> {
    fn drop(&mut self) {
        let mut shard = self.cell.shard.borrow_mut();
        if shard.is_imaging() {
            shard.end_image();
        }
        drop(shard);
        self.cell.book.borrow_mut().imaging = false;
        if !self.cell.dropped.get() {
            self.engine.inner.state.borrow_mut().work.insert(self.cell.id);
        }
        self.engine.inner.settled.notify();
        self.engine.wake_background();
    }
}
