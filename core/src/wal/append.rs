//! Taking records: placing each in the open batch and the batch in an allocated segment.

use std::rc::Rc;

use heddle_types::limits::WAL_RECORD_BYTES_MAX;
use heddle_types::{AlignedBuf, Device, Lsn, ShardId, Stamp};

use super::format::{
    BATCH_BYTES_TARGET, BATCH_HEADER_BYTES, FIRST_BATCH_OFFSET, RECORD_HEADER_BYTES, RecordHead,
    encode_record_header, page_rounded, record_bytes,
};
use super::segments::{Extent, Segment};
use super::{Allocation, Inner, RecordKind, State, Tail, Wal, WalConfig, WalError};

/// Records on their way to one place of one segment.
pub(super) struct Batch<D: Device> {
    pub(super) segment: Rc<Segment<D>>,
    pub(super) offset: u64,
    /// Bytes the segment has from `offset` on.
    room: u64,
    /// Starts with an empty batch header; the flusher fills it in.
    pub(super) buffer: AlignedBuf,
    pub(super) first_lsn: Lsn,
    pub(super) record_count: u32,
}

impl<D: Device> Batch<D> {
    fn takes(&self, bytes: usize) -> bool {
        let fits = page_rounded(self.buffer.len() + bytes) as u64 <= self.room;
        fits && (self.record_count == 0 || self.buffer.len() + bytes <= BATCH_BYTES_TARGET)
    }
}

/// Largest payload that fits into an empty segment.
pub(super) fn payload_bytes_max(config: WalConfig) -> usize {
    let room = config.segment_bytes.saturating_sub(FIRST_BATCH_OFFSET);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    room.saturating_sub(BATCH_HEADER_BYTES + RECORD_HEADER_BYTES).min(WAL_RECORD_BYTES_MAX)
}

impl<D: Device> Wal<D> {
    /// Accepts a record whose payload is the concatenation of `payload` and returns its position.
    ///
    /// The record is in memory only: acknowledge after [`Wal::durable`]. Errors: nothing was
    /// applied; [`WalError::Full`], [`WalError::Backlog`], [`WalError::TooLarge`],
    /// [`WalError::Failed`]. Cost: one copy of the payload and one checksum over it.
    pub fn append(
        &self,
        shard: ShardId,
        kind: RecordKind,
        stamp: &Stamp,
        payload: &[&[u8]],
    ) -> Result<Lsn, WalError> {
        let found: usize = payload.iter().map(|part| part.len()).sum();
        let limit = payload_bytes_max(self.inner.config);
        if found > limit {
            return Err(WalError::TooLarge { found, limit });
        }
        let bytes = record_bytes(found);
        let lsn = {
            let mut state = self.inner.state.borrow_mut();
            if let Err(refused) = state.admit(bytes, self.inner.config) {
                drop(state);
                self.inner.allocate.notify();
                return Err(refused);
            }
            let lsn = state.next_lsn;
            let batch = state.open.as_mut().expect("admitting a record opens a batch");
            let head = RecordHead { lsn, shard, kind, stamp };
            let start = batch.buffer.len();
            batch.buffer.extend_from_slice(&encode_record_header(batch.segment.key, head, payload));
            for part in payload {
                batch.buffer.extend_from_slice(part);
            }
            let padding = start + bytes - batch.buffer.len();
            batch.buffer.extend_from_slice(&[0; 8][..padding]);
            batch.record_count += 1;
            state.backlog_bytes += bytes;
            state.next_lsn = Lsn(lsn.0 + 1);
            lsn
        };
        self.inner.work.notify();
        self.inner.allocate.notify();
        Ok(lsn)
    }
}

impl<D: Device> State<D> {
    /// Makes sure that the open batch takes `bytes` more, or says why not.
    fn admit(&mut self, bytes: usize, config: WalConfig) -> Result<(), WalError> {
        if let Some(source) = self.failure.clone() {
            return Err(WalError::Failed { source });
        }
        if self.backlog_bytes >= config.backlog_bytes_max {
            return Err(WalError::Backlog { backlog_bytes: self.backlog_bytes });
        }
        if self.open.as_ref().is_some_and(|batch| batch.takes(bytes)) {
            return Ok(());
        }
        self.close_batch();
        self.open_batch(BATCH_HEADER_BYTES + bytes)
    }

    /// Hands the open batch to the flusher's queue.
    pub(super) fn close_batch(&mut self) {
        let Some(batch) = self.open.take() else { return };
        let tail = self.tail.as_mut().expect("an open batch has a tail");
        assert_eq!(tail.position, batch.offset, "batches lie one behind the other");
        tail.position += page_rounded(batch.buffer.len()) as u64;
        self.closed.push_back(batch);
    }

    /// Opens a batch where `bytes`, header included, fit.
    pub(super) fn open_batch(&mut self, bytes: usize) -> Result<(), WalError> {
        assert!(self.open.is_none(), "one batch is open at a time");
        let needed = page_rounded(bytes) as u64;
        if self.tail.as_ref().is_none_or(|tail| tail.room() < needed) {
            self.next_segment(needed)?;
        }
        let tail = self.tail.as_ref().expect("the tail was just made sure of");
        let mut buffer = self.buffers.pop().unwrap_or_else(|| AlignedBuf::zeroed(0));
        buffer.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
        self.open = Some(Batch {
            segment: Rc::clone(&tail.segment),
            offset: tail.position,
            room: tail.room(),
            buffer,
            first_lsn: self.next_lsn,
            record_count: 0,
        });
        Ok(())
    }

    fn next_segment(&mut self, needed: u64) -> Result<(), WalError> {
        let Some(segment) = self.spare.take() else {
            return Err(self.refusal());
        };
        assert!(segment.bytes - FIRST_BATCH_OFFSET >= needed, "any record fits an empty segment");
        self.extents.push_back(Extent {
            number: segment.key.number,
            bytes: segment.bytes,
            is_allocated: true,
            last_lsn: None,
        });
        self.tail = Some(Tail { segment, position: FIRST_BATCH_OFFSET });
        Ok(())
    }

    /// Why there is no segment: none could be allocated, or it is still being made.
    fn refusal(&mut self) -> WalError {
        let Allocation::Refused { appends, .. } = &mut self.allocation else {
            return WalError::Backlog { backlog_bytes: self.backlog_bytes };
        };
        *appends += 1;
        self.stats.refused_full += 1;
        WalError::Full
    }
}

impl<D: Device> Tail<D> {
    pub(super) fn room(&self) -> u64 {
        self.segment.bytes - self.position
    }
}

impl<D: Device> Inner<D> {
    pub(super) fn has_room(&self) -> bool {
        let state = self.state.borrow();
        if state.failure.is_some() || matches!(state.allocation, Allocation::Refused { .. }) {
            // The append tells which; waiting would not help.
            return true;
        }
        if state.backlog_bytes >= self.config.backlog_bytes_max {
            return false;
        }
        // Room for the largest record, so that whoever waited here can append.
        let largest = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES + payload_bytes_max(self.config);
        let pending = state.open.as_ref().map_or(0, |batch| page_rounded(batch.buffer.len()));
        let room = state.tail.as_ref().map_or(0, Tail::room).saturating_sub(pending as u64);
        state.spare.is_some() || room >= page_rounded(largest) as u64
    }
}
