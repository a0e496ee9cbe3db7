//! Writes between their log record and their effect.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use heddle_types::{ApiError, Lsn, ObjectDigest, ObjectId, ShardId, Stamp};

use super::types::ItemVector;
use crate::wal::Signal;

/// A record that is in the log's hands and waits to be durable.
pub(super) struct Pending {
    pub(super) lsn: Lsn,
    pub(super) shard: ShardId,
    pub(super) id: ObjectId,
    pub(super) stamp: Stamp,
    pub(super) change: Change,
    pub(super) log_bytes: u64,
    /// Who waits, and which of the batch's results this is.
    pub(super) batch: Rc<Batch>,
    pub(super) position: usize,
    /// What a version that wins over the record's means.
    pub(super) source: Source,
}

/// Where a write got its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Here, so it is the newest.
    Own,
    /// From the core that coordinates the write; anything may have come before it.
    Coordinator,
}

/// What a record does.
pub(super) enum Change {
    Put { created_us: i64, vectors: Vec<ItemVector>, row: Vec<u8> },
    Delete,
}

/// What applying a record did, for whoever waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) stamp: Stamp,
    pub(super) created_us: i64,
    pub(super) existed: bool,
    pub(super) effect: Effect,
}

/// Did a write change its object?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// It did.
    Applied,
    /// It was there already.
    Known,
    /// The object has a version that wins; the outcome's stamp is its stamp.
    Superseded,
}

/// Results of one put or delete call.
pub(super) struct Batch {
    results: RefCell<Vec<Option<Result<Outcome, ApiError>>>>,
    remaining: Cell<usize>,
    done: Signal,
}

impl Batch {
    pub(super) fn new(count: usize) -> Rc<Self> {
        Rc::new(Self {
            results: RefCell::new(vec![None; count]),
            remaining: Cell::new(count),
            done: Signal::default(),
        })
    }

    /// Sets a result; the first one counts.
    pub(super) fn resolve(&self, position: usize, result: Result<Outcome, ApiError>) {
        let mut results = self.results.borrow_mut();
        // A write that was acknowledged before its sync has nobody left to tell.
        let Some(open) = results.get_mut(position) else { return };
        if open.is_none() {
            *open = Some(result);
            self.remaining.set(self.remaining.get() - 1);
        }
        if self.remaining.get() == 0 {
            drop(results);
            self.done.notify();
        }
    }

    /// Waits for all results.
    pub(super) async fn wait(&self) -> Vec<Result<Outcome, ApiError>> {
        self.done.wait_until(|| self.remaining.get() == 0).await;
        let results = std::mem::take(&mut *self.results.borrow_mut());
        results.into_iter().map(|result| result.expect("none remains")).collect()
    }
}

/// Writes to one object that are under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    /// Records appended and not applied.
    pub(super) in_flight: u32,
    /// The object as the last of them makes it.
    pub(super) last: Option<ObjectDigest>,
    /// A merge reads the object; other writes wait for it.
    pub(super) merging: bool,
}
