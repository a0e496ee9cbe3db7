//! Everything that one home core does for its shards; no glommio.
//!
//! A write is checked, stamped and appended to the core's log; when its record is durable it is
//! applied to its shard, in log order, and then the caller gets its answer. So an answer means:
//! on disk, and visible to get and search. Nothing is visible before it is durable.
//!
//! The engine has no threads and no timers. A driver runs [`Engine::run_wal`], and calls the steps
//! of `index_batch` / `link_batch`, `sweep_step`, `maintain` and `checkpoint` when it has time.
//!
//! Invariants:
//! - Records are applied in the order of their positions, each in one uninterrupted step.
//! - No borrow of a shard lives across an await.
//! - A record is removed from the log only when an image of its shard covers it.

mod apply;
mod arrivals;
mod background;
mod backup;
mod checkpoint;
mod close;
mod compare;
mod config;
mod error;
mod floor;
mod high_water;
mod load;
mod pacing;
mod pending;
mod quarantine;
mod read;
mod rebuild;
mod recover;
mod replica;
mod scrub;
mod shards;
mod space;
mod status;
mod transfer;
mod types;
mod write;
mod yielding;

#[cfg(test)]
mod tests;

pub(crate) use background::Lease;
pub use background::{IndexBatch, IndexedBatch, LinkProgress, RowBatch};
pub use backup::{BackupFile, BackupPart};
pub use close::{CLOSED_SUFFIX, Reopened, closed_directory};
pub use config::{
    CHECKPOINT_LOG_BYTES_DEFAULT, EngineConfig, LOG_BYTES_MAX_DEFAULT, OnDataLoss, OpenReport,
    Progress,
};
pub use error::EngineError;
pub use quarantine::refusal as quarantine_refusal;
pub use replica::{Replicated, StampedChange, StampedWrite};
pub use scrub::{FINDINGS_MAX, Finding, ScrubStats, ScrubStep};
pub use space::{SpaceLevel, refused_for_space};
pub use status::{EngineStatus, ShardState, ShardStatus};
pub use types::{Durability, ItemVector, Object, PutItem, PutMode, Want, Written};
pub use write::{merge_rows, merge_vectors};
pub(crate) use yielding::yield_now;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use heddle_index::Quiescence;
use heddle_types::{ApiError, Clock, Device, Lsn, ObjectId, ShardId, StampSource};
use rustc_hash::FxHashMap;

use crate::checkpoint::Previous;
use crate::shard::{Shard, ShardView};
use crate::wal::{Signal, Wal};
use high_water::HighWater;
use pending::{Busy, Pending};
use quarantine::Quarantined;
use rebuild::Absent;

/// The engine of one home core. Clones share it; it stays on its core.
pub struct Engine<D: Device, C: Clock> {
    inner: Rc<Inner<D, C>>,
}

impl<D: Device, C: Clock> Clone for Engine<D, C> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<D: Device, C: Clock> {
    device: D,
    clock: C,
    config: EngineConfig,
    quiescence: Arc<Quiescence>,
    wal: Wal<D>,
    state: RefCell<State<D>>,
    scrub: RefCell<scrub::ScrubState<D>>,
    space: Cell<SpaceLevel>,
    /// Does anybody search these shards?
    searched: Cell<bool>,
    pace: Cell<space::Pace>,
    /// Backups that copy the log; while there are any it is not given up.
    log_holds: Cell<usize>,
    held: pacing::HeldWriters,
    /// Records were queued; the applier waits here.
    queued: Signal,
    /// Records were applied, merges ended, rows were flushed; writers wait here.
    settled: Signal,
    /// Views changed.
    published: Signal,
    /// There may be background work again.
    background: Signal,
}

struct State<D: Device> {
    shards: BTreeMap<ShardId, Rc<ShardCell<D>>>,
    /// Shards that are not served, because their image was unusable.
    absent: BTreeMap<ShardId, Absent<D>>,
    /// Shards that are not served because records of theirs are damaged.
    quarantined: BTreeMap<ShardId, Quarantined>,
    /// Shards that are being opened, closed or removed, or copied while they are closed.
    moving: BTreeSet<ShardId>,
    stamps: StampSource,
    high_water: HighWater,
    pending: VecDeque<Pending>,
    /// Log bytes of those: what writers may leave behind them is bounded.
    pending_bytes: u64,
    busy: FxHashMap<(ShardId, ObjectId), Busy>,
    applied_lsn: Lsn,
    view_version: u64,
    /// Which shard's view changed at which version, as far as not everybody knows.
    viewed: BTreeMap<u64, ShardId>,
    /// Shards in which there may be something to link or to sweep. All others are quiet: with
    /// thousands of shards nothing looks at each of them for every write.
    work: BTreeSet<ShardId>,
    /// Events beside applied records that may have made background work.
    background_events: u64,
    /// The log failed; every write is refused.
    failed: bool,
    /// The shard that background work looked at last.
    turn: ShardId,
    /// Directories of logs that only shards without a new image still need.
    old_logs: Vec<u32>,
    memory: MemoryGauge,
}

/// Memory in use, measured again after some bytes of writes.
#[derive(Clone, Copy, Default)]
struct MemoryGauge {
    total_bytes: u64,
    written_since_bytes: u64,
    measured: bool,
}

/// A shard and what the engine keeps beside it.
struct ShardCell<D: Device> {
    id: ShardId,
    shard: RefCell<Shard<D>>,
    book: RefCell<Book>,
    /// The last image, with which the next one is compared.
    previous: RefCell<Previous>,
    /// How fast rows may come while linking cannot follow.
    pacing: RefCell<pacing::Pacing>,
    /// Gone from the engine; whatever still runs for it stops.
    dropped: Cell<bool>,
    /// On its way to being closed: it takes no writes.
    closing: Cell<bool>,
}

/// What the log and the image of a shard have in common.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    /// The first applied record that no image holds; the log must keep it.
    first_unimaged: Option<Lsn>,
    /// While an image is written: the first record applied since it began.
    first_since_begin: Option<Lsn>,
    /// Log bytes applied since the last image began.
    log_bytes: u64,
    /// Log records that the start applied.
    records_replayed: u64,
    /// Log bytes of those; 0 once an image holds them.
    replayed_bytes: u64,
    /// Generation of the last image; 0 before the first.
    generation: u64,
    /// Generation of the last image that was begun.
    tried_generation: u64,
    /// The last image failed.
    image_failed: bool,
    /// Position that the last image covers.
    covers: Lsn,
    /// Bytes of the files of the last image, superblocks included; 0 before the first.
    image_bytes: u64,
    /// When the last image was committed, microseconds since the Unix epoch; 0 before the first.
    imaged_us: u64,
    /// An image is being written.
    imaging: bool,
    /// Records from another log than the own one were applied since the last image.
    needs_image: bool,
    /// A link failed for lack of memory; linking pauses until the next image.
    link_failed: bool,
    /// A durable record could not be applied; the shard refuses writes until it is opened again.
    poisoned: bool,
    /// Rows are being written to a segment.
    flushing: bool,
    /// Rows could not be written; they wait in memory for the next try.
    flush_failed: bool,
    /// Segments are being rewritten.
    compacting: bool,
    /// The floor is being written.
    setting_floor: bool,
}

impl Book {
    /// Does the last image hold everything that was applied up to `lsn`?
    fn is_imaged(&self, lsn: Lsn) -> bool {
        !self.needs_image && self.first_unimaged.is_none_or(|first| first > lsn)
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    fn cell(&self, shard: ShardId) -> Result<Rc<ShardCell<D>>, ApiError> {
        let state = self.inner.state.borrow();
        if let Some(cell) = state.shards.get(&shard) {
            return Ok(Rc::clone(cell));
        }
        if let Some(absent) = state.absent.get(&shard) {
            return Err(absent.error(shard));
        }
        Err(match state.quarantined.get(&shard) {
            Some(quarantined) => quarantine::refusal(shard, &quarantined.reason),
            None => error::no_shard(shard),
        })
    }

    fn cells(&self) -> Vec<Rc<ShardCell<D>>> {
        self.inner.state.borrow().shards.values().cloned().collect()
    }

    /// What other cores see of a shard; `None` when it is not here.
    #[must_use]
    pub fn view(&self, shard: ShardId) -> Option<Arc<ShardView>> {
        let state = self.inner.state.borrow();
        let cell = state.shards.get(&shard)?;
        Some(Arc::clone(cell.shard.borrow().view()))
    }

    /// The views of all shards, by shard.
    #[must_use]
    pub fn views(&self) -> Vec<Arc<ShardView>> {
        let cells = self.cells();
        cells.iter().map(|cell| Arc::clone(cell.shard.borrow().view())).collect()
    }

    /// Grows whenever some view changed: a shard came or went, or an arena moved.
    #[must_use]
    pub fn view_version(&self) -> u64 {
        self.inner.state.borrow().view_version
    }

    /// Waits until the version is another than `seen`, and returns it.
    pub async fn view_changed(&self, seen: u64) -> u64 {
        self.inner.published.wait_until(|| self.view_version() != seen).await;
        self.view_version()
    }

    /// What changed behind a version that everybody knows: views, and shards that are gone.
    ///
    /// Cost: what changed; the engine forgets what is up to `known`.
    #[must_use]
    pub fn views_since(&self, known: u64) -> ViewChanges {
        let changed: BTreeSet<ShardId> = {
            let mut state = self.inner.state.borrow_mut();
            state.viewed = state.viewed.split_off(&(known + 1));
            state.viewed.values().copied().collect()
        };
        let mut changes = ViewChanges::default();
        for shard in changed {
            match self.view(shard) {
                Some(view) => changes.views.push(view),
                None => changes.gone.push(shard),
            }
        }
        changes
    }

    fn views_changed(&self, shard: ShardId) {
        let mut state = self.inner.state.borrow_mut();
        state.view_version += 1;
        let version = state.view_version;
        state.viewed.insert(version, shard);
        drop(state);
        self.inner.published.notify();
    }

    /// Publishes a shard again if one of its arenas moved.
    fn republish(&self, shard: &mut Shard<D>) {
        if shard.republish() {
            self.views_changed(shard.spec.id);
        }
    }
}

/// Views that changed, and shards that have none any more.
#[derive(Clone, Debug, Default)]
pub struct ViewChanges {
    /// The views as they are now.
    pub views: Vec<Arc<ShardView>>,
    /// Shards that are not served.
    pub gone: Vec<ShardId>,
}
