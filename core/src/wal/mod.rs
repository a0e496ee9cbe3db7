//! The write-ahead log: one per home core, shared by its shards.
//!
//! A record is accepted into the open batch, its batch is written and synced by [`Wal::run`], and
//! only then may the write be acknowledged and applied. One batch is in flight at a time; the next
//! fills while it syncs, so many concurrent writers share few syncs and no timer is needed.
//!
//! Invariants:
//! - An accepted record has its place in an allocated segment: a full disk refuses records, it
//!   never loses accepted ones.
//! - A batch is written only after the one before it is durable. A bad batch with a valid one
//!   behind it therefore cannot come from a crash.
//! - Nothing is ever written over a tail: recovery goes on in a segment of a new number, and every
//!   checksum is keyed with that number.
//! - Segments disappear oldest first, each durably before the next.

mod append;
mod damage;
mod error;
mod flusher;
mod format;
mod found;
pub mod fuzz;
mod recovery;
mod reopen;
mod scrub;
mod segments;
mod signal;
mod window;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use heddle_types::limits::{WAL_BACKLOG_BYTES_MAX, WAL_SEGMENT_BYTES};
use heddle_types::{Device, DeviceError, Lsn};

pub use damage::{Damage, Loss};
pub use error::WalError;
pub use format::{Record, RecordKind};
pub use recovery::{RecoveredBatch, Recovery, RecoveryReport};
pub(crate) use scrub::LogScrub;
pub(crate) use signal::Signal;

use append::Batch;
use segments::{Extent, Segment};

/// Sizes of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalConfig {
    /// Bytes of a segment file, whole pages; existing segments keep their size.
    pub segment_bytes: u64,
    /// Bytes accepted and not durable above which [`Wal::append`] refuses and [`Wal::room`] waits.
    pub backlog_bytes_max: usize,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self { segment_bytes: WAL_SEGMENT_BYTES, backlog_bytes_max: WAL_BACKLOG_BYTES_MAX }
    }
}

/// Buckets of [`WalStats::batch_records`].
pub const BATCH_RECORDS_BUCKETS: usize = 16;

/// Counters of a log since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WalStats {
    /// Syncs of segment data.
    pub syncs: u64,
    /// Batches made durable.
    pub batches: u64,
    /// Records made durable.
    pub records: u64,
    /// Bytes of batches made durable, padding included.
    pub bytes: u64,
    /// Batches by record count: bucket `i` counts batches of `2^i ..= 2^(i+1) - 1` records, the
    /// last bucket everything above.
    pub batch_records: [u64; BATCH_RECORDS_BUCKETS],
    /// Bytes accepted and not durable.
    pub backlog_bytes: usize,
    /// Segment files, the spare one included.
    pub segments: usize,
    /// Bytes of those files.
    pub segment_bytes: u64,
    /// Bytes of a released file that is kept for its blocks.
    pub spare_bytes: u64,
    /// Appends refused because the disk is full.
    pub refused_full: u64,
    /// Last durable record; 0 before the first.
    pub durable_lsn: Lsn,
    /// The next record's position.
    pub next_lsn: Lsn,
}

/// The log of one home core. Clones share it; it stays on its core.
pub struct Wal<D: Device> {
    inner: Rc<Inner<D>>,
}

impl<D: Device> Clone for Wal<D> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<D: Device> {
    device: D,
    directory: String,
    config: WalConfig,
    state: RefCell<State<D>>,
    /// The flusher waits here for records.
    work: Signal,
    /// The allocator waits here for a reason to make a segment.
    allocate: Signal,
    /// Writers wait here for room, sealers for the seal.
    room: Signal,
}

struct State<D: Device> {
    log_id: u64,
    next_lsn: Lsn,
    durable: Lsn,
    failure: Option<DeviceError>,
    /// Where the next batch goes.
    tail: Option<Tail<D>>,
    spare: Option<Rc<Segment<D>>>,
    open: Option<Batch<D>>,
    closed: VecDeque<Batch<D>>,
    backlog_bytes: usize,
    waiters: BTreeMap<(Lsn, u64), Waker>,
    waiter_next: u64,
    /// Segments that hold or held batches, oldest first; the tail's is the last.
    extents: VecDeque<Extent>,
    releasing: bool,
    /// A segment was taken out of the directory and no sync has made that durable yet.
    release_unsynced: bool,
    /// A released file whose new name is not durable yet.
    recyclable_unsynced: Option<String>,
    /// A released file, kept for its allocated blocks.
    recyclable: Option<String>,
    number_next: u64,
    allocation: Allocation,
    seal: Seal,
    buffers: Vec<heddle_types::AlignedBuf>,
    stats: WalStats,
}

struct Tail<D: Device> {
    segment: Rc<Segment<D>>,
    /// Where the next batch begins.
    position: u64,
}

/// What the allocator does about the spare segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Allocation {
    /// Makes one whenever there is none.
    Ready,
    /// The disk was full; tries again after so many refused appends, or when space was released.
    Refused { appends: u32, retry_after: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seal {
    None,
    Wanted,
    Done,
}

/// After a refused allocation the next try comes after 1, 2, 4, … this many refused appends.
const RETRY_APPENDS_MAX: u32 = 16;

impl<D: Device> Wal<D> {
    /// Opens the log of `directory`, creating it when it is missing: hands each valid record in
    /// order of its LSN to `sink`, cuts a torn tail, and goes on in a new segment.
    ///
    /// Errors: [`WalError::Corrupt`] when a record that was durable is damaged; nothing is changed
    /// on disk then. [`WalError::Refused`] carries the sink's words. Cost: one sequential read of
    /// the log. A recovery that has to await between records, or that goes on without what is
    /// damaged, uses [`Recovery`] itself.
    pub async fn recover(
        device: D,
        directory: &str,
        config: WalConfig,
        sink: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(Self, RecoveryReport), WalError> {
        let mut recovery = Recovery::open(device, directory, config).await?;
        while let Some(batch) = recovery.next_batch().await? {
            if batch.is_behind_damage() {
                break;
            }
            for record in batch.records() {
                let lsn = record.lsn;
                sink(record).map_err(|reason| WalError::Refused { lsn, reason })?;
            }
        }
        match recovery.damage().first() {
            Some(damage) => Err(damage.error()),
            None => recovery.finish().await,
        }
    }

    /// Waits while appends would be refused with [`WalError::Backlog`], or for the next segment
    /// while the current one runs out. Another writer may take the room first: append, and on
    /// `Backlog` wait again.
    pub async fn room(&self) {
        self.inner.room.wait_until(|| self.inner.has_room()).await;
    }

    /// Waits until the record is on disk.
    ///
    /// Errors: [`WalError::Failed`] when it never will be; whether it is found after a restart is
    /// then unknown.
    pub fn durable(&self, lsn: Lsn) -> impl Future<Output = Result<(), WalError>> + use<D> {
        let mut waiter = Waiter { wal: self.clone(), lsn, id: None };
        poll_fn(move |context| waiter.poll(context.waker()))
    }

    /// The last record that is on disk; 0 before the first.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.inner.state.borrow().durable
    }

    /// The position the next record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.inner.state.borrow().next_lsn
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        let state = self.inner.state.borrow();
        let spare = state.spare.iter().map(|segment| segment.bytes);
        let sizes = state.extents.iter().map(|extent| extent.bytes).chain(spare);
        WalStats {
            backlog_bytes: state.backlog_bytes,
            segments: state.extents.len() + usize::from(state.spare.is_some()),
            segment_bytes: sizes.sum(),
            spare_bytes: [&state.recyclable, &state.recyclable_unsynced]
                .into_iter()
                .flatten()
                .map(|_kept| self.inner.config.segment_bytes)
                .sum(),
            durable_lsn: state.durable,
            next_lsn: state.next_lsn,
            ..state.stats
        }
    }
}

/// One wait for one record; leaves the list when it is dropped.
struct Waiter<D: Device> {
    wal: Wal<D>,
    lsn: Lsn,
    id: Option<u64>,
}

impl<D: Device> Waiter<D> {
    fn poll(&mut self, waker: &Waker) -> Poll<Result<(), WalError>> {
        let mut state = self.wal.inner.state.borrow_mut();
        assert!(self.lsn < state.next_lsn, "waits for a record that was never appended");
        if state.durable >= self.lsn {
            return Poll::Ready(Ok(()));
        }
        if let Some(source) = state.failure.clone() {
            return Poll::Ready(Err(WalError::Failed { source }));
        }
        let id = *self.id.get_or_insert(state.waiter_next);
        state.waiter_next = state.waiter_next.max(id + 1);
        state.waiters.insert((self.lsn, id), waker.clone());
        Poll::Pending
    }
}

impl<D: Device> Drop for Waiter<D> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.wal.inner.state.borrow_mut().waiters.remove(&(self.lsn, id));
        }
    }
}
