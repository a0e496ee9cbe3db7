//! Reading durable batches once more: to find damage before a start needs them, and for backups.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceFile, Lsn, OpenMode};

use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, FAULT_VERSION, FIRST_BATCH_OFFSET, Fault, SegmentHeader,
    SegmentKey, page_rounded, verify_body,
};
use super::segments::{Extent, segment_name};
use super::{Wal, WalError};

/// A segment whose durable batches are being read.
pub(crate) struct LogScrub<D: Device> {
    file: D::File,
    path: String,
    number: u64,
    header: Option<SegmentHeader>,
    /// The last record that was durable in the segment when the scrub began.
    last: Lsn,
    /// Where the next batch begins.
    offset: u64,
}

/// A part of a segment that was read and checked.
pub(crate) struct LogPart {
    pub(crate) offset: u64,
    /// Whole pages.
    pub(crate) bytes: AlignedBuf,
    /// Was it the batch of the last record that was durable at the beginning?
    pub(crate) is_last: bool,
}

/// A segment without any record, for a copy of a log of which no record is needed.
pub(crate) struct BlankSegment {
    /// Path of the file, as that of a segment of this log.
    pub(crate) path: String,
    /// Its first page; the rest are zeros.
    pub(crate) header: AlignedBuf,
    pub(crate) segment_bytes: u64,
}

impl<D: Device> Wal<D> {
    /// The segment that a log begins with which goes on behind a position; nothing is written.
    pub(crate) fn blank_segment(&self, durable: Lsn) -> BlankSegment {
        let state = self.inner.state.borrow();
        let key = SegmentKey { log_id: state.log_id, number: state.number_next };
        let segment_bytes = self.inner.config.segment_bytes;
        let mut header = AlignedBuf::zeroed(PAGE_SIZE_BYTES);
        let encoded = SegmentHeader { key, segment_bytes, durable }.encode();
        header.as_mut_slice()[..encoded.len()].copy_from_slice(&encoded);
        let path = format!("{}/{}", self.inner.directory, segment_name(key.number));
        BlankSegment { path, header, segment_bytes }
    }

    /// Numbers of the segments that hold durable records, oldest first.
    pub(crate) fn durable_segments(&self) -> Vec<u64> {
        self.segments_from(Lsn(0))
    }

    /// Numbers of the segments that hold durable records from `first` on, oldest first.
    pub(crate) fn segments_from(&self, first: Lsn) -> Vec<u64> {
        let state = self.inner.state.borrow();
        let holds = |extent: &&Extent| extent.last_lsn.is_some_and(|last| last >= first);
        state.extents.iter().filter(holds).map(|extent| extent.number).collect()
    }

    /// Begins to read a segment; `None` when it was released.
    pub(crate) async fn begin_scrub(&self, number: u64) -> Result<Option<LogScrub<D>>, WalError> {
        let last = {
            let state = self.inner.state.borrow();
            let mut extents = state.extents.iter();
            extents.find(|extent| extent.number == number).and_then(|extent| extent.last_lsn)
        };
        let Some(last) = last else { return Ok(None) };
        let path = format!("{}/{}", self.inner.directory, segment_name(number));
        let file = self.inner.device.open(&path, OpenMode::Read).await?;
        Ok(Some(LogScrub { file, path, number, header: None, last, offset: FIRST_BATCH_OFFSET }))
    }
}

impl<D: Device> LogScrub<D> {
    /// Number of the segment.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Bytes of the segment's file; known after the first step.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.header.map_or(0, |header| header.segment_bytes)
    }

    /// Reads and checks the header, then one batch a step.
    ///
    /// Errors: [`WalError::Corrupt`]. It counts only if the segment is still the log's: a released
    /// file is written over.
    pub(crate) async fn step(&mut self) -> Result<LogPart, WalError> {
        let Some(header) = self.header else {
            let page = self.file.read_at(0, PAGE_SIZE_BYTES).await?;
            let header = SegmentHeader::decode(&page).map_err(|fault| self.corrupt(0, fault))?;
            if header.key.number != self.number {
                let (expected, found) = (self.number, header.key.number);
                return Err(self.corrupt(0, Fault { what: "segment number", expected, found }));
            }
            self.header = Some(header);
            return Ok(LogPart { offset: 0, bytes: page, is_last: false });
        };
        let room = header.segment_bytes.saturating_sub(self.offset);
        if room < PAGE_SIZE_BYTES as u64 {
            let (expected, found) = (self.last.0, self.offset);
            let early = Fault { what: "last durable record", expected, found };
            return Err(self.corrupt(self.offset, early));
        }
        let page = self.file.read_at(self.offset, PAGE_SIZE_BYTES).await?;
        let batch = BatchHeader::decode(&page, header.key, self.offset, room)
            .map_err(|fault| self.corrupt(self.offset, fault))?;
        let total = page_rounded(batch.total_bytes());
        let bytes = if total > PAGE_SIZE_BYTES {
            self.file.read_at(self.offset, total).await?
        } else {
            page
        };
        let body = &bytes[BATCH_HEADER_BYTES..batch.total_bytes()];
        verify_body(body, header.key, &batch).map_err(|(at, fault)| {
            self.corrupt(self.offset + BATCH_HEADER_BYTES as u64 + at as u64, fault)
        })?;
        let (offset, is_last) = (self.offset, batch.next_lsn() > self.last);
        self.offset += total as u64;
        Ok(LogPart { offset, bytes, is_last })
    }

    fn corrupt(&self, offset: u64, fault: Fault) -> WalError {
        let Fault { what, expected, found } = fault;
        let file = self.path.clone();
        match what {
            FAULT_VERSION => WalError::Version { file, expected, found },
            _ => WalError::Corrupt { file, offset, what, expected, found },
        }
    }
}
