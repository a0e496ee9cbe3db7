//! What an engine tells about itself.

use std::rc::Rc;

use heddle_types::{Clock, Device, ShardId};

use super::pacing::ONE as BURDEN_ONE;
use super::rebuild::Absent;
use super::{Engine, ScrubStats, ShardCell};
use crate::objects::ObjectStats;
use crate::shard::{Shard, ShardMemory};
use crate::wal::WalStats;

/// State of one home core. Cost of taking it: a few hundred ns a shard.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// The home core.
    pub core: u32,
    /// Counters of the log.
    pub wal: WalStats,
    /// Last record that was applied.
    pub applied_lsn: u64,
    /// Writes that wait for the log or for being applied.
    pub writes_in_flight: u64,
    /// Nanoseconds that rows have waited because linking could not follow, added up.
    pub writers_held_ns: u64,
    /// The log failed; no write is accepted.
    pub failed: bool,
    /// The search for damage at rest.
    pub scrub: ScrubStats,
    /// Memory of all shards: what counts against the budget of puts, and the sum of
    /// [`ShardStatus::memory_bytes`].
    pub memory_bytes: u64,
    /// The shards, by id.
    pub shards: Vec<ShardStatus>,
    /// Shards that are not served because durable records of theirs are damaged, and why.
    pub quarantined: Vec<(ShardId, String)>,
}

/// State of one shard.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// The shard.
    pub id: ShardId,
    /// Name of its collection.
    pub collection: String,
    /// Live objects.
    pub objects: u64,
    /// Deletions that are remembered.
    pub tombstones: u64,
    /// Dead slots that are not free yet.
    pub dead_slots: u64,
    /// Vectors that are scanned because they are not in a graph yet, over all vectors.
    pub tail: u64,
    /// What writers have left to linking and sweeping, in per cent of what begins to slow them.
    pub burden_percent: u64,
    /// Vectors that the indexes hold, dead ones included.
    pub vectors: u64,
    /// Bytes that they and their links occupy, of what is committed for them.
    pub index_bytes: u64,
    /// Memory by use.
    pub memory: ShardMemory,
    /// Rows in memory and on disk.
    pub rows: ObjectStats,
    /// Bytes of the files of the last image.
    pub image_bytes: u64,
    /// Log bytes applied since the last image began.
    pub log_bytes: u64,
    /// Position that the last image covers; 0 before the first.
    pub image_covers: u64,
    /// Age of the last image, microseconds; `None` before the first.
    pub image_age_us: Option<u64>,
    /// A durable write could not be applied; writes are refused until a restart.
    pub poisoned: bool,
    /// Is it served?
    pub state: ShardState,
    /// Log records that the start applied to it.
    pub records_replayed: u64,
}

impl ShardStatus {
    /// Memory of the shard: its parts by use, rows that are not written yet, and the tables of the
    /// segments that are.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.total_bytes() + self.rows.memory_bytes + self.rows.table_bytes
    }
}

/// Whether a shard is served, and why not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardState {
    /// It is.
    Serving,
    /// Its image was unusable; it is built again from its rows, of which so many were read.
    Rebuilding {
        /// Rows read so far, dead ones included.
        entries: u64,
    },
    /// It is damaged beyond that.
    Lost {
        /// File, place and what was wrong there.
        reason: String,
    },
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Takes the state.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let mut shards: Vec<ShardStatus> =
            self.cells().iter().map(|cell| self.shard_status(cell)).collect();
        let state = self.inner.state.borrow();
        shards.extend(state.absent.iter().map(|(id, absent)| absent.status(*id)));
        shards.sort_unstable_by_key(|shard| shard.id);
        EngineStatus {
            core: self.inner.config.core,
            wal: self.inner.wal.stats(),
            applied_lsn: state.applied_lsn.0,
            writes_in_flight: state.pending.len() as u64,
            writers_held_ns: self.writers_held_ns(),
            failed: state.failed,
            scrub: self.scrub_stats(),
            memory_bytes: self.memory_bytes(),
            shards,
            quarantined: self.quarantined(),
        }
    }

    /// Memory of all shards, those that are being built again included.
    pub(super) fn memory_bytes(&self) -> u64 {
        let state = self.inner.state.borrow();
        let rebuilding = state.absent.values().filter_map(Absent::cell);
        let cells = state.shards.values().chain(rebuilding);
        cells.map(|cell| memory_of(&cell.shard.borrow())).sum()
    }

    fn shard_status(&self, cell: &super::ShardCell<D>) -> ShardStatus {
        let shard = cell.shard.borrow();
        let book = cell.book.borrow();
        let (mut tail, mut vectors, mut index_bytes) = (0, 0, 0);
        for stats in shard.vectors().map(|(_, vector)| vector.view().stats()) {
            tail += u64::from(stats.tail);
            vectors += u64::from(stats.slots);
            index_bytes += stats.used_bytes as u64;
        }
        let now_us = self.inner.clock.unix_us();
        let has_image = book.generation > 0;
        ShardStatus {
            id: cell.id,
            collection: shard.spec.config.name.clone(),
            objects: shard.live_count(),
            tombstones: shard.tombstone_count(),
            dead_slots: u64::from(shard.directory().dead_count()),
            tail,
            burden_percent: self.burden(cell) * 100 / BURDEN_ONE,
            vectors,
            index_bytes,
            memory: shard.memory(),
            rows: shard.objects.stats(),
            image_bytes: book.image_bytes,
            log_bytes: book.log_bytes,
            image_covers: book.covers.0,
            image_age_us: has_image.then(|| now_us.saturating_sub(book.imaged_us)),
            poisoned: book.poisoned,
            state: ShardState::Serving,
            records_replayed: book.records_replayed,
        }
    }
}

fn memory_of<D: Device>(shard: &Shard<D>) -> u64 {
    let rows = shard.objects.stats();
    shard.memory().total_bytes() + rows.memory_bytes + rows.table_bytes
}

impl<D: Device> Absent<D> {
    /// The shard, if there is anything of it in memory.
    fn cell(&self) -> Option<&Rc<ShardCell<D>>> {
        match self {
            Self::Rebuilding { cell, .. } => Some(cell),
            Self::Lost { .. } => None,
        }
    }

    fn status(&self, id: ShardId) -> ShardStatus {
        let (collection, state, records_replayed) = match self {
            Self::Rebuilding { cell, entries, .. } => (
                cell.shard.borrow().spec.config.name.clone(),
                ShardState::Rebuilding { entries: *entries },
                cell.book.borrow().records_replayed,
            ),
            Self::Lost { collection, reason, .. } => {
                (collection.clone(), ShardState::Lost { reason: reason.clone() }, 0)
            }
        };
        let shard = self.cell().map(|cell| cell.shard.borrow());
        ShardStatus {
            id,
            collection,
            objects: 0,
            tombstones: 0,
            dead_slots: 0,
            tail: 0,
            burden_percent: 0,
            vectors: 0,
            index_bytes: 0,
            memory: shard.as_ref().map_or_else(ShardMemory::default, |shard| shard.memory()),
            rows: shard.map_or_else(ObjectStats::default, |shard| shard.objects.stats()),
            image_bytes: 0,
            log_bytes: 0,
            image_covers: 0,
            image_age_us: None,
            poisoned: false,
            state,
            records_replayed,
        }
    }
}
