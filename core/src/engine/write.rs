//! From a request to log records: checking, resolving, stamping, appending.

use std::rc::Rc;

use heddle_types::row::{decode_row, encode_row};
use heddle_types::{
    ApiError, Clock, Device, DeviceError, ErrorCode, Lsn, ObjectDigest, ObjectId, ShardId, Stamp,
};

use super::error::append_refused;
use super::pending::{Batch, Change, Effect, Outcome, Pending, Source};
use super::types::{Durability, ItemVector, PutItem, PutMode, Want, Written};
use super::yielding::yield_now;
use super::{Engine, EngineError, ShardCell};
use crate::objects::ObjectError;
use crate::shard::record::encode_put_head;
use crate::shard::updated_us;
use crate::validate::{check_batch, check_item};
use crate::wal::{RecordKind, WalError};

/// Objects that are appended before other tasks may run: about 100 us.
pub(super) const APPENDS_PER_TURN: usize = 16;
/// Bytes of writes after which memory is measured again.
const MEASURE_EVERY_BYTES: u64 = 1 << 20;

/// A write that is resolved and not in the log yet.
pub(super) enum NewWrite {
    Put { vectors: Vec<ItemVector>, row: Vec<u8> },
    Delete,
}

/// What the log said about a write.
pub(super) struct Appended {
    pub(super) lsn: Lsn,
    pub(super) stamp: Stamp,
    pub(super) created_us: i64,
    /// Does the object exist before this record?
    pub(super) existed: bool,
    pub(super) log_bytes: u64,
}

/// Which result of which call a write answers.
pub(super) struct Answer<'a> {
    pub(super) batch: &'a Rc<Batch>,
    pub(super) position: usize,
    pub(super) durability: Durability,
    pub(super) source: Source,
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Puts objects; resolves when every accepted one is durable and visible to get and search.
    ///
    /// One result an item, in order. An error of an item: it was not applied, unless its code is
    /// `Unknown`. An error of the call: nothing was applied. Items of one id take effect in order.
    /// A merge reads the object from the device. Needs [`Engine::run_wal`] to be running; what was
    /// appended takes effect also when the future is dropped.
    pub async fn put(
        &self,
        shard: ShardId,
        mode: PutMode,
        items: Vec<PutItem>,
    ) -> Result<Vec<Result<Written, ApiError>>, ApiError> {
        self.put_with(shard, mode, Durability::Sync, items).await
    }

    /// As [`Engine::put`], acknowledged when `durability` says.
    pub async fn put_with(
        &self,
        shard: ShardId,
        mode: PutMode,
        durability: Durability,
        items: Vec<PutItem>,
    ) -> Result<Vec<Result<Written, ApiError>>, ApiError> {
        check_batch(items.len())?;
        let cell = self.cell(shard)?;
        self.check_writable(&cell)?;
        self.check_memory()?;
        let batch = Batch::new(items.len());
        for (position, item) in items.into_iter().enumerate() {
            if position % APPENDS_PER_TURN == APPENDS_PER_TURN - 1 {
                yield_now().await;
            }
            let answer = Answer { batch: &batch, position, durability, source: Source::Own };
            if let Err(error) = self.put_one(&cell, mode, item, &answer).await {
                batch.resolve(position, Err(error));
            }
        }
        let results = batch.wait().await.into_iter();
        let written = results.map(|result| {
            result.map(|Outcome { stamp, created_us, existed, .. }| Written {
                stamp,
                created_us,
                created: !existed,
            })
        });
        Ok(written.collect())
    }

    /// Deletes objects; resolves when every deletion is durable. Did each exist?
    ///
    /// Errors as for [`Engine::put`]. An object that does not exist is not an error and costs no
    /// log record.
    pub async fn delete(
        &self,
        shard: ShardId,
        ids: Vec<ObjectId>,
    ) -> Result<Vec<Result<bool, ApiError>>, ApiError> {
        self.delete_with(shard, Durability::Sync, ids).await
    }

    /// As [`Engine::delete`], acknowledged when `durability` says.
    pub async fn delete_with(
        &self,
        shard: ShardId,
        durability: Durability,
        ids: Vec<ObjectId>,
    ) -> Result<Vec<Result<bool, ApiError>>, ApiError> {
        check_batch(ids.len())?;
        let cell = self.cell(shard)?;
        self.check_writable(&cell)?;
        let batch = Batch::new(ids.len());
        for (position, id) in ids.into_iter().enumerate() {
            if position % APPENDS_PER_TURN == APPENDS_PER_TURN - 1 {
                yield_now().await;
            }
            let answer = Answer { batch: &batch, position, durability, source: Source::Own };
            if let Err(error) = self.delete_one(&cell, id, &answer).await {
                batch.resolve(position, Err(error));
            }
        }
        let results = batch.wait().await.into_iter();
        Ok(results.map(|result| result.map(|outcome| outcome.existed)).collect())
    }

    async fn put_one(
        &self,
        cell: &Rc<ShardCell<D>>,
        mode: PutMode,
        item: PutItem,
        answer: &Answer<'_>,
    ) -> Result<(), ApiError> {
        self.check_item(cell, &item, mode)?;
        self.check_space(cell, item.id)?;
        self.rows_fit(cell).await?;
        self.paced(cell).await;
        if mode == PutMode::Merge {
            return self.merge_one(cell, item, answer).await;
        }
        let write = NewWrite::Put { vectors: item.vectors, row: item.properties };
        self.inner.settled.wait_until(|| !self.is_merging(cell.id, item.id)).await;
        self.append(cell, item.id, write, answer, || !self.is_merging(cell.id, item.id)).await
    }

    async fn delete_one(
        &self,
        cell: &Rc<ShardCell<D>>,
        id: ObjectId,
        answer: &Answer<'_>,
    ) -> Result<(), ApiError> {
        self.inner.settled.wait_until(|| !self.is_merging(cell.id, id)).await;
        let exists = cell.shard.borrow().slot_of(&id).is_some();
        if !exists && self.in_flight(cell.id, id) == 0 {
            let effect = Effect::Known;
            let outcome =
                Outcome { stamp: Stamp::default(), created_us: 0, existed: false, effect };
            answer.batch.resolve(answer.position, Ok(outcome));
            return Ok(());
        }
        self.append(cell, id, NewWrite::Delete, answer, || !self.is_merging(cell.id, id)).await
    }

    /// Reads what is there, lays the item over it and writes the whole. Other writes to the object
    /// wait, so that no field of theirs is lost.
    async fn merge_one(
        &self,
        cell: &Rc<ShardCell<D>>,
        item: PutItem,
        answer: &Answer<'_>,
    ) -> Result<(), ApiError> {
        let id = item.id;
        self.inner.settled.wait_until(|| !self.is_merging(cell.id, id)).await;
        let _merging = Merging::begin(self, cell.id, id);
        let is_quiet = || self.in_flight(cell.id, id) == 0 || self.inner.state.borrow().failed;
        self.inner.settled.wait_until(is_quiet).await;
        let write = match self.read_object(cell, id, Want::ALL).await? {
            Some(old) => NewWrite::Put {
                row: merge_rows(&old.properties, &item.properties)?,
                vectors: merge_vectors(old.vectors, item.vectors),
            },
            None => NewWrite::Put { vectors: item.vectors, row: item.properties },
        };
        self.append(cell, id, write, answer, || true).await
    }

    /// Appends once the log has room and `may_append` holds, and queues the record for applying.
    async fn append(
        &self,
        cell: &Rc<ShardCell<D>>,
        id: ObjectId,
        write: NewWrite,
        answer: &Answer<'_>,
        may_append: impl Fn() -> bool,
    ) -> Result<(), ApiError> {
        loop {
            self.inner.settled.wait_until(|| self.has_room() && may_append()).await;
            self.check_writable(cell)?;
            match self.try_append(cell, id, &write) {
                Ok(appended) => {
                    self.enqueue(cell.id, id, appended, write, answer);
                    return Ok(());
                }
                Err(WalError::Backlog { .. }) => self.inner.wal.room().await,
                Err(error) => {
                    // The log tries for space again when it gets a turn.
                    yield_now().await;
                    return Err(append_refused(&error));
                }
            }
        }
    }

    /// May more writes wait for taking effect?
    pub(super) fn has_room(&self) -> bool {
        let limit = self.inner.config.wal.backlog_bytes_max as u64;
        let state = self.inner.state.borrow();
        state.pending_bytes < limit || state.failed
    }

    fn try_append(
        &self,
        cell: &ShardCell<D>,
        id: ObjectId,
        write: &NewWrite,
    ) -> Result<Appended, WalError> {
        let before_us = self.created_us(cell, id);
        let now_us = self.inner.clock.unix_us();
        let stamp = self.inner.state.borrow_mut().stamps.next(now_us);
        let created_us = match write {
            NewWrite::Put { .. } => before_us.unwrap_or(updated_us(&stamp)),
            NewWrite::Delete => 0,
        };
        let (lsn, log_bytes) = self.append_record(cell.id, id, write, stamp, created_us)?;
        Ok(Appended { lsn, stamp, created_us, existed: before_us.is_some(), log_bytes })
    }

    /// Appends the record of a write: its position, and the bytes of its payload.
    pub(super) fn append_record(
        &self,
        shard: ShardId,
        id: ObjectId,
        write: &NewWrite,
        stamp: Stamp,
        created_us: i64,
    ) -> Result<(Lsn, u64), WalError> {
        let wal = &self.inner.wal;
        let (lsn, bytes) = match write {
            NewWrite::Put { vectors, row } => {
                let mut head = Vec::new();
                encode_put_head(&id, created_us, vectors, row.len(), &mut head);
                let lsn = wal.append(shard, RecordKind::Put, &stamp, &[&head, row])?;
                (lsn, head.len() + row.len())
            }
            NewWrite::Delete => {
                (wal.append(shard, RecordKind::Delete, &stamp, &[&id.0])?, id.0.len())
            }
        };
        Ok((lsn, bytes as u64))
    }

    /// When the object was created, as the next record will find it.
    fn created_us(&self, cell: &ShardCell<D>, id: ObjectId) -> Option<i64> {
        let busy = self.inner.state.borrow().busy.get(&(cell.id, id)).copied();
        if let Some(busy) = busy.filter(|busy| busy.in_flight > 0) {
            return busy.last.filter(|last| !last.is_tombstone).map(|last| last.created_us);
        }
        let shard = cell.shard.borrow();
        shard.slot_of(&id).map(|slot| shard.facts(slot).created_us)
    }

    pub(super) fn enqueue(
        &self,
        shard: ShardId,
        id: ObjectId,
        appended: Appended,
        write: NewWrite,
        answer: &Answer<'_>,
    ) {
        let Appended { lsn, stamp, created_us, existed, log_bytes } = appended;
        if answer.durability == Durability::Batched {
            let outcome = Outcome { stamp, created_us, existed, effect: Effect::Applied };
            answer.batch.resolve(answer.position, Ok(outcome));
        }
        let change = match write {
            NewWrite::Put { vectors, row } => Change::Put { created_us, vectors, row },
            NewWrite::Delete => Change::Delete,
        };
        let mut state = self.inner.state.borrow_mut();
        let busy = state.busy.entry((shard, id)).or_default();
        busy.in_flight += 1;
        busy.last = Some(match change {
            Change::Put { .. } => ObjectDigest::live(stamp, created_us),
            Change::Delete => ObjectDigest::tombstone(stamp),
        });
        state.memory.written_since_bytes += log_bytes;
        let Answer { batch, position, source, .. } = *answer;
        let batch = Rc::clone(batch);
        let pending = Pending { lsn, shard, id, stamp, change, log_bytes, batch, position, source };
        assert!(
            state.pending.back().is_none_or(|last| last.lsn < lsn),
            "records are queued in the order of the log"
        );
        state.pending.push_back(pending);
        state.pending_bytes += log_bytes;
        drop(state);
        self.inner.queued.notify();
    }

    pub(super) fn check_item(
        &self,
        cell: &ShardCell<D>,
        item: &PutItem,
        mode: PutMode,
    ) -> Result<(), ApiError> {
        let config = std::sync::Arc::clone(&cell.shard.borrow().spec.config);
        check_item(&config, item, mode)?;
        let unknown =
            |vector: &&ItemVector| config.vectors[usize::from(vector.index)].dims.is_none();
        match item.vectors.iter().find(unknown) {
            None => Ok(()),
            Some(vector) => Err(ApiError::transient(
                ErrorCode::Unavailable,
                format!("the dimension of vector number {} is not fixed yet", vector.index),
            )),
        }
    }

    pub(super) fn check_writable(&self, cell: &ShardCell<D>) -> Result<(), ApiError> {
        if cell.dropped.get() {
            return Err(super::error::no_shard(cell.id));
        }
        let refuse = |why: &str| {
            let message = format!("shard {} takes no writes: {why}", cell.id);
            Err(ApiError::transient(ErrorCode::Unavailable, message))
        };
        if cell.closing.get() {
            return refuse("it is being closed");
        }
        if self.inner.state.borrow().failed {
            return refuse("the log failed");
        }
        if cell.book.borrow().poisoned {
            return refuse("a durable write could not be applied; restart the node");
        }
        Ok(())
    }

    /// Refuses puts while the budget is used up; deletes and reads go on.
    pub(super) fn check_memory(&self) -> Result<(), ApiError> {
        let gauge = self.inner.state.borrow().memory;
        if !gauge.measured || gauge.written_since_bytes >= MEASURE_EVERY_BYTES {
            self.measure_memory();
        }
        let gauge = self.inner.state.borrow().memory;
        let used = gauge.total_bytes + gauge.written_since_bytes;
        let limit = self.inner.config.memory_bytes_max;
        if used <= limit {
            return Ok(());
        }
        let message = format!("core {} uses {used} bytes of {limit}", self.inner.config.core);
        Err(ApiError::transient(ErrorCode::MemoryFull, message))
    }

    fn measure_memory(&self) {
        let total_bytes = self.memory_bytes();
        let mut state = self.inner.state.borrow_mut();
        state.memory.total_bytes = total_bytes;
        state.memory.written_since_bytes = 0;
        state.memory.measured = true;
    }

    /// Makes room when too many rows wait for a flush: the writer that meets the limit writes them.
    pub(super) async fn rows_fit(&self, cell: &ShardCell<D>) -> Result<(), ApiError> {
        while cell.shard.borrow().objects.is_over_limit() {
            self.check_writable(cell)?;
            if cell.book.borrow().flushing {
                self.inner.settled.wait_until(|| !cell.book.borrow().flushing).await;
                continue;
            }
            self.flush_rows(cell).await.map_err(|error| {
                let code = match &error {
                    EngineError::Objects {
                        source: ObjectError::Device(DeviceError::NoSpace { .. }),
                        ..
                    } => ErrorCode::DiskFull,
                    _ => ErrorCode::Unavailable,
                };
                ApiError::transient(code, format!("rows cannot be written: {error}"))
            })?;
        }
        Ok(())
    }

    pub(super) fn is_merging(&self, shard: ShardId, id: ObjectId) -> bool {
        self.inner.state.borrow().busy.get(&(shard, id)).is_some_and(|busy| busy.merging)
    }

    pub(super) fn in_flight(&self, shard: ShardId, id: ObjectId) -> u32 {
        self.inner.state.borrow().busy.get(&(shard, id)).map_or(0, |busy| busy.in_flight)
    }
}

/// Holds an object for a merge; lets go when dropped, also in the middle of an await.
struct Merging<D: Device, C: Clock> {
    engine: Engine<D, C>,
    key: (ShardId, ObjectId),
}

impl<D: Device, C: Clock> Merging<D, C> {
    fn begin(engine: &Engine<D, C>, shard: ShardId, id: ObjectId) -> Self {
        let key = (shard, id);
        let mut state = engine.inner.state.borrow_mut();
        let busy = state.busy.entry(key).or_default();
        assert!(!busy.merging, "merges of one object wait for each other");
        busy.merging = true;
        drop(state);
        Self { engine: engine.clone(), key }
    }
}

impl<D: Device, C: Clock> Drop for Merging<D, C> {
    fn drop(&mut self) {
        let mut state = self.engine.inner.state.borrow_mut();
        let busy = state.busy.get_mut(&self.key).expect("a merging object is busy");
        busy.merging = false;
        if busy.in_flight == 0 {
            state.busy.remove(&self.key);
        }
        drop(state);
        self.engine.inner.settled.notify();
    }
}

/// The property row of an object after a merge: what the new one lists, else what was there.
///
/// Errors: a row that is no row, or `TooLarge` when the merged one is.
pub fn merge_rows(old: &[u8], new: &[u8]) -> Result<Vec<u8>, ApiError> {
    let decode = |row: &[u8]| {
        decode_row(row).map_err(|error| ApiError::internal(format!("stored row: {error}")))
    };
    let mut properties = decode(old)?;
    properties.extend(decode(new)?);
    let mut merged = Vec::new();
    if !properties.is_empty() {
        encode_row(&properties, &mut merged).map_err(|error| {
            ApiError::new(ErrorCode::TooLarge, format!("merged object: {error}"), "fewer bytes")
        })?;
    }
    Ok(merged)
}

/// The vectors of an object after a merge, by their position in the definition.
#[must_use]
pub fn merge_vectors(old: Vec<ItemVector>, new: Vec<ItemVector>) -> Vec<ItemVector> {
    let replaced = |vector: &ItemVector| new.iter().any(|other| other.index == vector.index);
    let mut merged: Vec<ItemVector> = old.into_iter().filter(|vector| !replaced(vector)).collect();
    merged.extend(new);
    merged.sort_by_key(|vector| vector.index);
    merged
}
