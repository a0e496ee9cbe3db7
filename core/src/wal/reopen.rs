//! From a log that was read back to one that takes records.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use heddle_types::{Device, DeviceError, DeviceFile, Lsn, ObjectId, OpenMode};

use super::format::{FIRST_BATCH_OFFSET, SegmentHeader, SegmentKey};
use super::recovery::{Recovery, RecoveryReport};
use super::segments::{Blocks, Extent, Segment, TEMPORARY_SUFFIX, make_segment};
use super::{Allocation, Inner, Seal, Signal, State, Tail, Wal, WalError, WalStats};

impl<D: Device> Recovery<D> {
    /// Ends the recovery: makes what was read durable, removes what was cut, and opens the log for
    /// appending in a new segment. Reads the rest of the log first if there is any.
    ///
    /// A full disk is not an error: appends are refused until there is space.
    pub async fn finish(mut self) -> Result<(Wal<D>, RecoveryReport), WalError> {
        while self.next_batch().await?.is_some() {}
        let next_lsn = self.next_lsn.expect("the end of the log sets it");
        self.report.next_lsn = next_lsn;
        self.report.segments =
            self.segments.iter().filter(|segment| segment.last_lsn.is_some()).count();
        // What was read may so far be only in a cache of the device.
        if let Some(last) = self.segments.iter().rfind(|segment| segment.last_lsn.is_some()) {
            self.device.open(&last.path, OpenMode::Write).await?.sync().await?;
        }
        let recyclable = self.clear().await?;
        let log_id = match self.segments.first() {
            Some(segment) => segment.header.key.log_id,
            None => (ObjectId::random().as_u128() >> 64) as u64,
        };
        let header = SegmentHeader {
            key: SegmentKey { log_id, number: self.number_next },
            segment_bytes: self.config.segment_bytes,
            durable: Lsn(next_lsn.0 - 1),
        };
        let blocks = recyclable.map_or(Blocks::New, Blocks::Recycled);
        let made = make_segment(&self.device, &self.directory, header, blocks).await;
        let (tail, allocation) = match made {
            Ok(segment) => (Some(segment), Allocation::Ready),
            Err(DeviceError::NoSpace { .. }) => (None, Allocation::Ready.after_refusal()),
            Err(error) => return Err(error.into()),
        };
        Ok(self.into_wal(log_id, next_lsn, tail, allocation))
    }

    /// Removes temporary files and the segments without a durable record; keeps one file for reuse.
    async fn clear(&mut self) -> Result<Option<String>, WalError> {
        for name in &self.report.removed {
            self.device.remove(&format!("{}/{name}", self.directory)).await?;
        }
        let mut recyclable = None;
        for segment in &self.segments {
            if segment.last_lsn.is_some() {
                continue;
            }
            let has_size = segment.end == self.config.segment_bytes && !segment.is_short;
            if recyclable.is_none() && has_size && segment.is_allocated {
                let target = format!("{}{TEMPORARY_SUFFIX}", segment.path);
                self.device.rename(&segment.path, &target).await?;
                recyclable = Some(target);
            } else {
                self.device.remove(&segment.path).await?;
            }
        }
        self.device.sync_dir(&self.directory).await?;
        Ok(recyclable)
    }

    fn into_wal(
        mut self,
        log_id: u64,
        next_lsn: Lsn,
        tail: Option<Segment<D>>,
        allocation: Allocation,
    ) -> (Wal<D>, RecoveryReport) {
        if let Some(stop) = self.stop.take() {
            // Blank pages are the ordinary end of a segment, not a cut.
            self.report.cut = (!stop.fault.is_blank()).then_some((stop.path, stop.offset));
        }
        let mut extents: VecDeque<Extent> = self
            .segments
            .iter()
            .filter(|segment| segment.last_lsn.is_some())
            .map(|segment| Extent {
                number: segment.header.key.number,
                bytes: segment.header.segment_bytes,
                is_allocated: segment.is_allocated,
                last_lsn: segment.last_lsn,
            })
            .collect();
        let tail = tail.map(|segment| {
            extents.push_back(Extent {
                number: segment.key.number,
                bytes: segment.bytes,
                is_allocated: true,
                last_lsn: None,
            });
            Tail { segment: Rc::new(segment), position: FIRST_BATCH_OFFSET }
        });
        let state = State {
            log_id,
            next_lsn,
            durable: Lsn(next_lsn.0 - 1),
            failure: None,
            tail,
            spare: None,
            open: None,
            closed: VecDeque::new(),
            backlog_bytes: 0,
            waiters: BTreeMap::new(),
            waiter_next: 0,
            extents,
            releasing: false,
            release_unsynced: false,
            recyclable_unsynced: None,
            recyclable: None,
            number_next: self.number_next + 1,
            allocation,
            seal: Seal::None,
            buffers: Vec::new(),
            stats: WalStats::default(),
        };
        let inner = Inner {
            device: self.device,
            directory: self.directory,
            config: self.config,
            state: RefCell::new(state),
            work: Signal::default(),
            allocate: Signal::default(),
            room: Signal::default(),
        };
        (Wal { inner: Rc::new(inner) }, self.report)
    }
}
