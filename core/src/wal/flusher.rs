//! Writing batches: group commit without timers.

use std::pin::pin;

use futures::future::{Either, select};
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn};

use super::append::Batch;
use super::format::{BATCH_BYTES_TARGET, BATCH_HEADER_BYTES, BatchHeader};
use super::{
    Allocation, BATCH_RECORDS_BUCKETS, Inner, RETRY_APPENDS_MAX, Seal, State, Wal, WalError,
};

/// Emptied buffers kept for the next batches.
const BUFFERS_KEPT: usize = 2;

impl Allocation {
    pub(super) fn after_refusal(self) -> Self {
        let retry_after = match self {
            Self::Ready => 1,
            Self::Refused { retry_after, .. } => (retry_after * 2).min(RETRY_APPENDS_MAX),
        };
        Self::Refused { appends: 0, retry_after }
    }
}

impl<D: Device> Wal<D> {
    /// Writes and syncs batches and allocates segments ahead, for as long as the log lives.
    ///
    /// Returns only when a write or sync failed: every waiter got that error, nothing further is
    /// accepted, and the process has to end. At most one may run at a time. Dropped with a batch in
    /// flight, the log has failed: whether that batch is on disk is unknown, and nothing after it
    /// could become durable.
    pub async fn run(&self) -> WalError {
        let flush = pin!(self.inner.flush());
        let allocate = pin!(self.inner.allocate_ahead());
        let source = match select(flush, allocate).await {
            Either::Left((error, _)) | Either::Right((error, _)) => error,
        };
        self.inner.fail(source.clone());
        WalError::Failed { source }
    }

    /// Waits until everything appended is durable, then records that it is, so that later damage
    /// to the last batch can be told from a torn write. For a clean stop. Needs [`Wal::run`].
    pub async fn seal(&self) -> Result<(), WalError> {
        let last = Lsn(self.next_lsn().0 - 1);
        if last.0 == 0 {
            return Ok(());
        }
        self.durable(last).await?;
        self.inner.state.borrow_mut().seal = Seal::Wanted;
        self.inner.work.notify();
        self.inner
            .room
            .wait_until(|| {
                let state = self.inner.state.borrow();
                state.seal != Seal::Wanted || state.failure.is_some()
            })
            .await;
        match self.inner.state.borrow().failure.clone() {
            Some(source) => Err(WalError::Failed { source }),
            None => Ok(()),
        }
    }
}

impl<D: Device> Inner<D> {
    async fn flush(&self) -> DeviceError {
        loop {
            self.work.wait_until(|| self.state.borrow().has_work()).await;
            if let Some(failure) = self.state.borrow().failure.clone() {
                return failure;
            }
            let batch = self.state.borrow_mut().take_batch();
            let Some(batch) = batch else {
                self.room.notify();
                continue;
            };
            let mut in_flight = InFlight { log: self, came_back: false };
            let written = self.write(batch).await;
            in_flight.came_back = true;
            if let Err(error) = written {
                return error;
            }
        }
    }

    async fn write(&self, batch: Batch<D>) -> Result<(), DeviceError> {
        let Batch { segment, offset, mut buffer, first_lsn, record_count, .. } = batch;
        let header = BatchHeader {
            offset,
            record_count,
            body_bytes: u32::try_from(buffer.len() - BATCH_HEADER_BYTES)
                .expect("a batch is bounded by the segment and its own limit"),
            first_lsn,
            durable: self.state.borrow().durable,
        };
        assert_eq!(header.durable.0 + 1, first_lsn.0, "one batch is in flight at a time");
        buffer.as_mut_slice()[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode(segment.key));
        let buffer = segment.file.write_at(offset, buffer).await?;
        segment.file.sync().await?;
        self.complete(&header, segment.key.number, buffer);
        Ok(())
    }

    fn complete(&self, header: &BatchHeader, segment_number: u64, buffer: AlignedBuf) {
        let ready = {
            let mut state = self.state.borrow_mut();
            state.count_batch(header, buffer.padded().len());
            let last = Lsn(header.next_lsn().0 - 1);
            if header.record_count == 0 {
                state.seal = Seal::Done;
            } else {
                state.durable = last;
            }
            let mut extents = state.extents.iter_mut().rev();
            let extent = extents.find(|extent| extent.number == segment_number);
            extent.expect("a written segment is on the list").last_lsn = Some(last);
            state.keep_buffer(buffer);
            let later = state.waiters.split_off(&(Lsn(last.0 + 1), 0));
            std::mem::replace(&mut state.waiters, later)
        };
        // Woken without a borrow: a waiter may run at once.
        ready.into_values().for_each(std::task::Waker::wake);
        self.room.notify();
    }

    fn fail(&self, source: DeviceError) {
        let waiters = {
            let mut state = self.state.borrow_mut();
            // The first failure is the cause; a flusher given up because of it only follows.
            state.failure.get_or_insert(source);
            std::mem::take(&mut state.waiters)
        };
        waiters.into_values().for_each(std::task::Waker::wake);
        self.room.notify();
    }
}

/// A batch that is being written. Given up in an await, it is neither on disk nor not.
struct InFlight<'a, D: Device> {
    log: &'a Inner<D>,
    came_back: bool,
}

impl<D: Device> Drop for InFlight<'_, D> {
    fn drop(&mut self) {
        if !self.came_back {
            self.log.fail(DeviceError::Io {
                path: self.log.directory.clone(),
                operation: "write",
                os_code: None,
                source_text: "given up".to_owned(),
            });
        }
    }
}

impl<D: Device> State<D> {
    fn has_work(&self) -> bool {
        !self.closed.is_empty()
            || self.open.is_some()
            || self.seal == Seal::Wanted
            || self.failure.is_some()
    }

    /// The next batch to write: the oldest closed one, else the open one, else a seal.
    fn take_batch(&mut self) -> Option<Batch<D>> {
        if self.closed.is_empty()
            && self.open.is_none()
            && self.open_batch(BATCH_HEADER_BYTES).is_err()
        {
            // No room for a seal: the log is as good as before it.
            self.seal = Seal::None;
            return None;
        }
        if self.closed.is_empty() {
            self.close_batch();
        }
        self.closed.pop_front()
    }

    fn count_batch(&mut self, header: &BatchHeader, written_bytes: usize) {
        self.backlog_bytes -= header.body_bytes as usize;
        self.stats.syncs += 1;
        self.stats.bytes += written_bytes as u64;
        if let Some(log2) = header.record_count.checked_ilog2() {
            self.stats.batches += 1;
            self.stats.records += u64::from(header.record_count);
            self.stats.batch_records[(log2 as usize).min(BATCH_RECORDS_BUCKETS - 1)] += 1;
        }
    }

    fn keep_buffer(&mut self, mut buffer: AlignedBuf) {
        // One huge record must not pin its memory for ever.
        if self.buffers.len() < BUFFERS_KEPT && buffer.padded().len() <= 2 * BATCH_BYTES_TARGET {
            buffer.truncate(0);
            self.buffers.push(buffer);
        }
    }
}
