//! Opening: images, then the log behind them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use futures::future::LocalBoxFuture;
use heddle_index::Quiescence;
use heddle_types::limits::{REPLAY_VALUES_BYTES_MAX, REPLAY_VALUES_SHARE};
use heddle_types::{Clock, Device, DeviceError, Hlc, Lsn, ShardId, StampSource};
use rustc_hash::FxHashMap;

use super::background::SEGMENT_FILES_MAX;
use super::config::{EngineConfig, OpenReport, Progress};
use super::high_water::HighWater;
use super::load::Loader;
use super::pacing::HeldWriters;
use super::quarantine::{concerned, remove_written, set_apart};
use super::rebuild::{Absent, Loaded, NEEDS_ALL, Rebuild};
use super::{Engine, EngineError, Inner, MemoryGauge, ShardCell, State, yield_now};
use crate::checkpoint::{remove_unused_images, repair_superblocks};
use crate::objects::{ObjectConfig, ObjectError};
use crate::shard::record::{decode_delete, decode_put};
use crate::shard::{Applied, ShardSpec};
use crate::wal::{Record, RecordKind, Recovery, Signal, Wal, WalError};

/// Parent of all log directories.
pub(super) const LOGS: &str = "logs";
/// Ending of the name of a log directory that is being removed.
pub(super) const REMOVED_SUFFIX: &str = ".removed";
/// Records between two reports of progress.
const PROGRESS_EVERY_RECORDS: u64 = 65_536;

/// Records that are applied before reads and flushes beside them may go on.
const RECORDS_PER_TURN: u64 = 16;

/// Directory of a log.
pub(super) fn log_directory(log_index: u32) -> String {
    format!("{LOGS}/{log_index:04}")
}

/// The directory above; the root for a name without one.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(super) fn object_config(config: &EngineConfig) -> ObjectConfig {
    ObjectConfig { memtable_bytes: config.memtable_bytes as u64 }
}

/// The log positions that an image speaks about.
#[derive(Clone, Copy)]
pub(super) struct Covered {
    pub(super) log_index: u32,
    pub(super) covers: Lsn,
}

/// A shard as its image has it.
pub(super) struct Opened<D: Device> {
    pub(super) cell: Rc<ShardCell<D>>,
    pub(super) covered: Option<Covered>,
    /// Files of its image.
    pub(super) images: Vec<u64>,
    /// Object segments and temporary files that the image does not refer to.
    pub(super) unreferenced: Vec<String>,
}

impl<D: Device> Opened<D> {
    /// Removes older images and what no image refers to.
    pub(super) async fn remove_leftovers(&self, device: &D) -> Result<(), EngineError> {
        let shard = self.cell.id;
        let directory = self.cell.shard.borrow().spec.directory.clone();
        for name in &self.unreferenced {
            match device.remove(&format!("{directory}/{name}")).await {
                Ok(()) | Err(DeviceError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.unreferenced.is_empty() {
            device.sync_dir(&directory).await?;
        }
        let generation = self.cell.book.borrow().generation;
        if generation == 0 {
            return Ok(());
        }
        if let Err(error) = repair_superblocks(device, &directory, shard).await {
            // The other one is whole. What this one may name has to stay.
            tracing::warn!(shard = shard.0, %error, "one of two superblocks cannot be written");
            return Ok(());
        }
        let removed = remove_unused_images(device, &directory, &self.images).await;
        removed.map_err(|source| EngineError::Checkpoint { shard, source })
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Loads the images of all shards and replays the logs.
    ///
    /// Errors: the device's, a log that is another one, or no memory; a shard without a directory
    /// is made new. Damage to an image is no error: its shard waits for [`Engine::rebuild_next`],
    /// or is lost. Nor is a log that lost durable records: its shards are quarantined, or served
    /// without them when the configuration says so. The report names all of them.
    /// Memory: what the shards need, and one log window; rows are flushed on the way. Afterwards
    /// run [`Engine::run_wal`].
    pub async fn open(
        device: D,
        clock: C,
        config: EngineConfig,
        quiescence: Arc<Quiescence>,
        shards: Vec<ShardSpec>,
        progress: impl Fn(Progress),
    ) -> Result<(Self, OpenReport), EngineError> {
        let mut report = OpenReport::default();
        let loader = Loader {
            device: &device,
            config: &config,
            quiescence: &quiescence,
            progress: &progress,
        };
        let Found { mut opened, mut rebuilds, lost: absent } =
            loader.load_all(shards, &mut report).await?;
        let newest = opened.values().map(|opened| opened.cell.shard.borrow().newest_hlc()).max();
        let mut newest = newest.unwrap_or_default();
        let mut lost = Vec::new();
        let values_bytes_max =
            REPLAY_VALUES_BYTES_MAX.min(config.memory_bytes_max / REPLAY_VALUES_SHARE);
        let replay = Replay {
            shards: &opened,
            quiescence: &quiescence,
            progress: &progress,
            values_bytes_max,
            high_water: Cell::new(None),
        };
        let (own, old) = config.log_indexes.split_first().unwrap_or((&0, &[]));
        for log_index in old {
            let directory = log_directory(*log_index);
            let recovery = Recovery::open(device.clone(), &directory, config.wal).await?;
            let read = replay.read(recovery, *log_index, IsOwn::No, &mut newest, &mut report);
            let damage = read.await?.damage().to_vec();
            lost.extend(concerned(&opened, *log_index, IsOwn::No, &damage));
            report.damage.extend(damage);
        }
        let directory = log_directory(*own);
        let recovery = Recovery::open(device.clone(), &directory, config.wal).await?;
        let recovery = replay.read(recovery, *own, IsOwn::Yes, &mut newest, &mut report).await?;
        let high_water = match replay.high_water.get() {
            None => HighWater::default(),
            Some(HighWaterFound { lsn, is_own: IsOwn::Yes }) => HighWater::found(lsn),
            Some(HighWaterFound { is_own: IsOwn::No, .. }) => HighWater::found_in_old_log(),
        };
        let (wal, found) = recovery.finish().await?;
        check_covers(&opened, *own, found.first_lsn, found.next_lsn)?;
        lost.extend(concerned(&opened, *own, IsOwn::Yes, &found.damage));
        report.damage.extend(found.damage);
        report.flawed_segments = found.flawed;
        let (quarantined, closed) = set_apart(&mut opened, lost, &config, &mut report);
        for opened in &closed {
            remove_written(&device, &opened.cell).await;
        }
        // What rows and log make of a shard is not to be served when its log lost records.
        rebuilds.retain(|shard, _| !quarantined.contains_key(shard));
        report.shards_to_rebuild.retain(|shard| !quarantined.contains_key(shard));
        report.foreign_files.extend(found.foreign);
        report.torn_at = found.cut;
        remove_leftover_logs(&device).await;
        // Only now is it known that nothing else is needed.
        for (shard, opened) in &opened {
            if !rebuilds.contains_key(shard) {
                opened.remove_leftovers(&device).await?;
            }
        }
        let old_logs = old.to_vec();
        let engine = Self::assemble(device, clock, config, quiescence, wal, opened, newest);
        engine.inner.state.borrow_mut().old_logs = old_logs;
        engine.inner.state.borrow_mut().high_water = high_water;
        engine.inner.state.borrow_mut().quarantined = quarantined;
        engine.note_old_logs();
        engine.set_absent(rebuilds, absent);
        report.objects = engine.cells().iter().map(|c| c.shard.borrow().live_count()).sum();
        Ok((engine, report))
    }

    fn assemble(
        device: D,
        clock: C,
        config: EngineConfig,
        quiescence: Arc<Quiescence>,
        wal: Wal<D>,
        opened: BTreeMap<ShardId, Opened<D>>,
        newest: Hlc,
    ) -> Self {
        let stamps = StampSource::new(config.node, config.boot, config.core, newest);
        let work = opened.keys().copied().collect();
        let shards = opened.into_iter().map(|(id, opened)| (id, opened.cell)).collect();
        let state = State {
            shards,
            absent: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            moving: BTreeSet::new(),
            stamps,
            high_water: HighWater::default(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            busy: FxHashMap::default(),
            applied_lsn: Lsn(wal.next_lsn().0 - 1),
            view_version: 1,
            viewed: BTreeMap::new(),
            work,
            background_events: 0,
            failed: false,
            turn: ShardId(0),
            old_logs: Vec::new(),
            memory: MemoryGauge::default(),
        };
        let inner = Inner {
            device,
            clock,
            config,
            quiescence,
            wal,
            state: RefCell::new(state),
            scrub: RefCell::default(),
            space: Cell::default(),
            searched: Cell::new(true),
            pace: Cell::default(),
            log_holds: Cell::new(0),
            held: HeldWriters::default(),
            queued: Signal::default(),
            settled: Signal::default(),
            published: Signal::default(),
            background: Signal::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Takes shards that cannot be served yet, or at all, out of the way.
    fn set_absent(&self, rebuilds: BTreeMap<ShardId, Rebuild>, lost: BTreeMap<ShardId, Absent<D>>) {
        let mut state = self.inner.state.borrow_mut();
        state.absent = lost;
        for (shard, rebuild) in rebuilds {
            let cell = state.shards.remove(&shard).expect("it was opened");
            let absent = Absent::Rebuilding { cell, rebuild: Some(rebuild), entries: 0 };
            state.absent.insert(shard, absent);
        }
    }

    /// Shards of a run with other logs need an image of their own before those logs may go.
    fn note_old_logs(&self) {
        if !self.inner.state.borrow().old_logs.is_empty() {
            self.cells().iter().for_each(|cell| cell.book.borrow_mut().needs_image = true);
        }
    }
}

/// The shards of a core as they were found.
struct Found<D: Device> {
    opened: BTreeMap<ShardId, Opened<D>>,
    /// How those of them whose image was unusable are built.
    rebuilds: BTreeMap<ShardId, Rebuild>,
    lost: BTreeMap<ShardId, Absent<D>>,
}

impl<D: Device> Loader<'_, D> {
    async fn load_all(
        &self,
        shards: Vec<ShardSpec>,
        report: &mut OpenReport,
    ) -> Result<Found<D>, EngineError> {
        let (opened, rebuilds, lost) = Default::default();
        let mut found = Found { opened, rebuilds, lost };
        let has_many = shards.len() > SEGMENT_FILES_MAX;
        for spec in shards {
            let id = spec.id;
            let shard = match self.load(spec, report).await? {
                Loaded::Whole(shard) => shard,
                Loaded::Damaged(shard, rebuild) => {
                    found.rebuilds.insert(id, rebuild);
                    shard
                }
                Loaded::Lost { collection, directory, reason } => {
                    let needs_log_from = Some(NEEDS_ALL);
                    let lost = Absent::Lost { collection, directory, reason, needs_log_from };
                    report.shards_lost.push((id, lost.error(id)));
                    found.lost.insert(id, lost);
                    continue;
                }
            };
            if has_many {
                // Not read since it was opened, and not open any more.
                let objects = &shard.cell.shard.borrow().objects;
                (0..2).for_each(|_| objects.rest_files());
            }
            let objects = shard.cell.shard.borrow().live_count();
            (self.progress)(Progress::ShardLoaded { shard: id, objects });
            found.opened.insert(id, shard);
        }
        Ok(found)
    }
}

/// Removes what is left of logs whose removal was cut short. Engines of several cores may do so at
/// once, and what stays is only garbage, so nothing depends on it.
async fn remove_leftover_logs<D: Device>(device: &D) {
    let removed = async {
        for name in device.list(LOGS).await? {
            if name.ends_with(REMOVED_SUFFIX) {
                device.remove_tree(&format!("{LOGS}/{name}")).await?;
            }
        }
        Ok::<(), DeviceError>(())
    };
    if let Err(error) = removed.await {
        tracing::debug!(%error, "what is left of a removed log stays until the next start");
    }
}

/// An image must not speak of records that the log never had: then the log is another one.
fn check_covers<D: Device>(
    opened: &BTreeMap<ShardId, Opened<D>>,
    log_index: u32,
    first: Lsn,
    next: Lsn,
) -> Result<(), WalError> {
    let own = opened.values().filter_map(|opened| opened.covered);
    let own = own.filter(|covered| covered.log_index == log_index);
    match own.map(|covered| covered.covers).max() {
        Some(needed) if needed >= next => Err(WalError::Missing { first, next, needed }),
        _ => Ok(()),
    }
}

/// Is this the log that the engine will append to?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IsOwn {
    Yes,
    No,
}

struct Replay<'a, D: Device> {
    shards: &'a BTreeMap<ShardId, Opened<D>>,
    quiescence: &'a Quiescence,
    progress: &'a dyn Fn(Progress),
    /// Property values of all shards that wait to be sorted in.
    values_bytes_max: u64,
    /// The last record about issued stamps.
    high_water: Cell<Option<HighWaterFound>>,
}

/// A record about issued stamps that a log holds.
#[derive(Clone, Copy)]
struct HighWaterFound {
    lsn: Lsn,
    is_own: IsOwn,
}

impl<D: Device> Replay<'_, D> {
    /// Applies every record of a log that is not in an image, and flushes rows between batches.
    async fn read(
        &self,
        mut recovery: Recovery<D>,
        log_index: u32,
        is_own: IsOwn,
        newest: &mut Hlc,
        report: &mut OpenReport,
    ) -> Result<Recovery<D>, EngineError> {
        let mut records = 0;
        let mut flushes = Flushes::new(self.shards);
        self.shards.values().for_each(|opened| opened.cell.shard.borrow_mut().begin_bulk());
        while let Some(batch) = flushes.beside(recovery.next_batch()).await?? {
            for record in batch.records() {
                *newest = (*newest).max(record.stamp.hlc);
                self.apply(&record, log_index, is_own, report)?;
                records += 1;
                if records % PROGRESS_EVERY_RECORDS == 0 {
                    self.report_progress(log_index, records);
                }
                if records % RECORDS_PER_TURN == 0 {
                    // Else what reads ahead would not get to the device.
                    yield_now().await;
                }
            }
            flushes.flush_full().await?;
            for opened in self.shards.values() {
                opened.cell.shard.borrow_mut().reuse_replaced(self.quiescence);
            }
            self.sort_in_many(report);
        }
        flushes.finish().await?;
        self.shards.values().for_each(|opened| opened.cell.shard.borrow_mut().end_bulk());
        self.report_progress(log_index, records);
        Ok(recovery)
    }

    /// Sorts in the property values that were read once there are many: until then they take memory
    /// twice, in lists that grow by doubling.
    fn sort_in_many(&self, report: &mut OpenReport) {
        let shards = || self.shards.values().map(|opened| &opened.cell.shard);
        let waiting_bytes: u64 = shards().map(|shard| shard.borrow().waiting_bytes()).sum();
        if waiting_bytes <= self.values_bytes_max {
            return;
        }
        for shard in shards() {
            let mut shard = shard.borrow_mut();
            shard.end_bulk();
            shard.begin_bulk();
        }
        report.values_sorted_in += 1;
    }

    fn report_progress(&self, log_index: u32, records: u64) {
        for (shard, opened) in self.shards {
            let records = opened.cell.book.borrow().records_replayed;
            (self.progress)(Progress::ShardReplayed { shard: *shard, records });
        }
        (self.progress)(Progress::LogReplayed { log_index, records });
    }

    fn apply(
        &self,
        record: &Record<'_>,
        log_index: u32,
        is_own: IsOwn,
        report: &mut OpenReport,
    ) -> Result<(), EngineError> {
        if record.kind == RecordKind::HighWater {
            self.high_water.set(Some(HighWaterFound { lsn: record.lsn, is_own }));
            return Ok(());
        }
        let Some(opened) = self.shards.get(&record.shard) else {
            report.records_of_dropped_shards += 1;
            return Ok(());
        };
        let is_covered = opened
            .covered
            .is_some_and(|covered| covered.log_index == log_index && record.lsn <= covered.covers);
        if is_covered {
            report.records_superseded += 1;
            return Ok(());
        }
        let shard = record.shard;
        let unreadable = |source| EngineError::Record { shard, source };
        let mut target = opened.cell.shard.borrow_mut();
        let applied = match record.kind {
            RecordKind::Put => {
                let put = decode_put(record.payload).map_err(unreadable)?;
                target
                    .apply_put(&record.stamp, put.id, put.created_us, &put.vectors, put.row)
                    .map_err(|source| EngineError::Apply { shard, source })?
            }
            RecordKind::Delete => {
                let id = decode_delete(record.payload).map_err(unreadable)?;
                target.apply_delete(&record.stamp, id)
            }
            RecordKind::HighWater => return Ok(()),
        };
        target.republish();
        match applied {
            Applied::Done { .. } => report.records_applied += 1,
            Applied::Superseded { .. } => report.records_superseded += 1,
        }
        let mut book = opened.cell.book.borrow_mut();
        book.records_replayed += 1;
        book.replayed_bytes += record.payload.len() as u64;
        match is_own {
            IsOwn::Yes => book.note(record.lsn, record.payload.len() as u64),
            IsOwn::No => book.needs_image = true,
        }
        Ok(())
    }
}

/// Memtables that are written while the log is read on: one at a time, so that rows in memory stay
/// within two memtables of each shard.
struct Flushes<'a, D: Device> {
    shards: &'a BTreeMap<ShardId, Opened<D>>,
    running: Option<LocalBoxFuture<'a, Result<(), EngineError>>>,
}

impl<'a, D: Device> Flushes<'a, D> {
    fn new(shards: &'a BTreeMap<ShardId, Opened<D>>) -> Self {
        Self { shards, running: None }
    }

    /// Does some work while a flush goes on. Errors: the flush's.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, EngineError> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Some(flush) = &mut self.running
                && let Poll::Ready(flushed) = flush.as_mut().poll(context)
            {
                self.running = None;
                if let Err(error) = flushed {
                    return Poll::Ready(Err(error));
                }
            }
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// Begins to write memtables that are full, and waits where one is full again before.
    async fn flush_full(&mut self) -> Result<(), EngineError> {
        for opened in self.shards.values() {
            if !opened.cell.shard.borrow().objects.needs_flush() {
                continue;
            }
            self.finish().await?;
            self.running = Some(Box::pin(flush(opened)));
        }
        Ok(())
    }

    /// Waits for the flush that is running.
    async fn finish(&mut self) -> Result<(), EngineError> {
        match self.running.take() {
            Some(flush) => flush.await,
            None => Ok(()),
        }
    }
}

async fn flush<D: Device>(opened: &Opened<D>) -> Result<(), EngineError> {
    let job = opened.cell.shard.borrow_mut().objects.begin_flush();
    let Some(job) = job else { return Ok(()) };
    let flushed = job.run().await;
    let finished = opened.cell.shard.borrow_mut().objects.finish_flush(flushed);
    match finished {
        // A full disk must not keep a node from starting; the rows stay in memory.
        Ok(()) | Err(ObjectError::Device(DeviceError::NoSpace { .. })) => Ok(()),
        Err(source) => Err(EngineError::Objects { shard: opened.cell.id, source }),
    }
}
