//! Appending, reading, acknowledging.

use std::collections::VecDeque;

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, NodeId, OpenMode};

use super::format::{
    BATCH_BYTES_MAX, BatchHeader, FIRST_BATCH_OFFSET, HEADER_BYTES, HINT_BYTES_MAX, SegmentKey,
    encode_hint, encode_position, encode_segment_header, hint_bytes,
};
use super::segment::{Extent, Found, POSITION_NAME, read_batch, read_header, segment_name};
use super::{Hint, HintBatch, HintError, HintLogConfig, HintPosition, HintsWaiting};

/// The hints that wait for one node; see the module.
pub struct HintLog<D: Device> {
    pub(super) device: D,
    pub(super) directory: String,
    pub(super) target: NodeId,
    config: HintLogConfig,
    /// What holds hints that are not acknowledged, oldest first; the first one is that of the
    /// position.
    pub(super) segments: VecDeque<Extent>,
    /// The last segment, while batches are appended to it.
    writer: Option<D::File>,
    /// The segment read last.
    reading: Option<(u64, D::File)>,
    /// Everything before it is acknowledged.
    pub(super) position: HintPosition,
    /// Of the position that was written last.
    pub(super) generation: u64,
    pub(super) has_position_file: bool,
    /// When the oldest batch was written.
    pub(super) front_us: Option<u64>,
    /// Hints since the log was made.
    pub(super) count: u64,
    pub(super) number_next: u64,
    pub(super) damaged_bytes: u64,
    /// Segments whose files are to be removed.
    pub(super) discarded: Vec<u64>,
}

impl<D: Device> HintLog<D> {
    pub(super) fn empty(
        device: D,
        directory: String,
        target: NodeId,
        config: HintLogConfig,
    ) -> Self {
        Self {
            device,
            directory,
            target,
            config,
            segments: VecDeque::new(),
            writer: None,
            reading: None,
            position: HintPosition::default(),
            generation: 0,
            has_position_file: false,
            front_us: None,
            count: 0,
            number_next: 1,
            damaged_bytes: 0,
            discarded: Vec::new(),
        }
    }

    /// The node that the hints are for.
    #[must_use]
    pub fn target(&self) -> NodeId {
        self.target
    }

    /// Its folder, relative to the device's root.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// What waits.
    #[must_use]
    pub fn waiting(&self) -> HintsWaiting {
        let all: u64 = self.segments.iter().map(|extent| extent.end - FIRST_BATCH_OFFSET).sum();
        let is_empty = self.segments.is_empty();
        let read = if is_empty { 0 } else { self.position.offset - FIRST_BATCH_OFFSET };
        HintsWaiting {
            hints: if is_empty { 0 } else { self.count.saturating_sub(self.position.count) },
            bytes: all.saturating_sub(read),
            oldest_us: self.front_us,
            damaged_bytes: self.damaged_bytes,
        }
    }

    /// Appends hints, in order; they are durable when it returns. Those that were in a log before
    /// keep their time, which may be before that of hints in front of them.
    ///
    /// Errors: [`HintError::TooLarge`] before anything is appended; the device's, after which none
    /// of these hints counts, though some may be found at a later start. Cost: whole pages for each
    /// batch, one sync, another one for each new segment.
    pub async fn append(&mut self, hints: &[Hint], now_us: u64) -> Result<(), HintError> {
        let limit = HINT_BYTES_MAX;
        if let Some(found) = hints.iter().map(hint_bytes).find(|bytes| *bytes > limit) {
            return Err(HintError::TooLarge { found, limit });
        }
        let batch_bytes = self.config.batch_bytes.min(BATCH_BYTES_MAX);
        let mut rest = hints;
        while !rest.is_empty() {
            let mut body = Vec::new();
            let mut taken = 0;
            while taken < rest.len() && (taken == 0 || body.len() < batch_bytes) {
                encode_hint(&rest[taken], &mut body);
                taken += 1;
            }
            let batch = (taken as u32, body, now_us);
            if let Err(error) = self.append_batch(batch, taken == rest.len()).await {
                // What reached the file is not known: nothing more goes behind it.
                self.writer = None;
                return Err(error.into());
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    async fn append_batch(
        &mut self,
        (hints, body, written_us): (u32, Vec<u8>, u64),
        is_last: bool,
    ) -> Result<(), DeviceError> {
        let is_full = self.segments.back().is_none_or(|last| last.end >= self.config.segment_bytes);
        if is_full && let Some(writer) = self.writer.take() {
            // Batches of this call may be in it that are not synced.
            writer.sync().await?;
        }
        let is_new = self.writer.is_none();
        let number = if is_new { self.number_next } else { self.number_next - 1 };
        let end =
            self.segments.back().filter(|_| !is_new).map_or(FIRST_BATCH_OFFSET, |last| last.end);
        let is_first = self.segments.is_empty();
        let key = SegmentKey { target: self.target, number };
        let header = BatchHeader {
            offset: end,
            count: self.count,
            hints,
            body_bytes: body.len() as u32,
            body_crc: crc32c::crc32c(&body),
            written_us,
        };
        let mut buffer = AlignedBuf::zeroed(0);
        if is_new {
            buffer.extend_from_slice(&encode_segment_header(key, self.count));
            buffer.extend_from_slice(&[0; PAGE_SIZE_BYTES - HEADER_BYTES]);
        }
        buffer.extend_from_slice(&header.encode(key));
        buffer.extend_from_slice(&body);
        match &self.writer {
            Some(file) => {
                file.write_at(end, buffer).await?;
                if is_last {
                    file.sync().await?;
                }
            }
            None => {
                self.number_next += 1;
                let path = self.path(&segment_name(number));
                let file = self.device.open(&path, OpenMode::CreateNew).await?;
                let made = async {
                    file.write_at(0, buffer).await?;
                    file.sync().await?;
                    self.device.sync_dir(&self.directory).await
                };
                if let Err(error) = made.await {
                    drop(file.close().await);
                    drop(self.device.remove(&path).await);
                    return Err(error);
                }
                self.writer = Some(file);
                self.segments.push_back(Extent { number, count: self.count, end });
            }
        }
        if is_first {
            self.front_us = Some(written_us);
            self.position = HintPosition { segment: number, offset: end, count: self.count };
        }
        let last = self.segments.back_mut().expect("the batch is in the last segment");
        last.end = end + header.total_bytes();
        self.count = header.count_after();
        Ok(())
    }

    /// The first hints: whole batches of at most `bytes_max` together, but at least one, and none
    /// older than the first. None when nothing waits. They stay until [`HintLog::acknowledge`].
    ///
    /// Errors: the device's; nothing is changed. Cost: reads each batch once.
    pub async fn read(&mut self, bytes_max: u64) -> Result<Option<HintBatch>, HintError> {
        let mut batch =
            HintBatch { hints: Vec::new(), bytes: 0, written_us: 0, end: self.position };
        let mut index = 0;
        while let Some(extent) = self.segments.get(index).copied() {
            if batch.end.segment != extent.number {
                let offset = FIRST_BATCH_OFFSET;
                batch.end = HintPosition { segment: extent.number, offset, count: extent.count };
            }
            let key = SegmentKey { target: self.target, number: extent.number };
            let file = self.reader(extent.number).await?;
            let found = read_batch(&file, key, batch.end.offset, extent.end).await?;
            self.keep_reader(extent.number, file);
            let header = match found {
                Found::Nothing => {
                    index += 1;
                    continue;
                }
                Found::Batch(header, _) | Found::Damaged(header) => header,
            };
            let is_enough = batch.bytes.saturating_add(header.total_bytes()) > bytes_max;
            // Whoever acknowledges these is told the age of that one before it is sent.
            let is_older = header.written_us < batch.written_us;
            if (is_enough || is_older) && !batch.hints.is_empty() {
                break;
            }
            match found {
                Found::Batch(_, hints) => {
                    if batch.hints.is_empty() {
                        batch.written_us = header.written_us;
                    }
                    batch.hints.extend(hints);
                }
                Found::Damaged(_) | Found::Nothing => self.damaged_bytes += header.total_bytes(),
            }
            batch.bytes += header.total_bytes();
            batch.end.offset += header.total_bytes();
            batch.end.count = header.count_after();
        }
        if batch.hints.is_empty() {
            // Whatever was there is damaged.
            let end = batch.end;
            self.acknowledge(end).await?;
            return Ok(None);
        }
        Ok(Some(batch))
    }

    /// The node has everything up to `end`; later starts do not find it.
    ///
    /// Errors: the device's; it may be found again at a later start, which does no harm, and
    /// [`HintLog::waiting`] tells what is left all the same. Cost: two pages and a sync, and the
    /// removal of files that hold nothing else.
    pub async fn acknowledge(&mut self, end: HintPosition) -> Result<(), HintError> {
        if end <= self.position {
            // The oldest one may not have been read when the position came here.
            return self.find_front().await;
        }
        self.position = end;
        while let Some(first) = self.segments.front() {
            let is_done = first.number < end.segment
                || (first.number == end.segment && first.end <= end.offset);
            if !is_done {
                break;
            }
            self.drop_front_segment();
        }
        let marked = self.mark().await;
        // Whoever waits for the age of the oldest one must not see one that is gone.
        let found = self.find_front().await;
        marked?;
        found
    }

    /// Makes the position durable, then gives room back.
    async fn mark(&mut self) -> Result<(), DeviceError> {
        self.persist_position().await?;
        self.remove_discarded().await
    }

    /// Drops the batches at the front that were written before a time; returns how many hints
    /// those were.
    ///
    /// Errors: as of [`HintLog::acknowledge`]. Cost: one page a batch that goes.
    pub async fn expire(&mut self, before_us: u64) -> Result<u64, HintError> {
        let mut end = self.position;
        let mut dropped = 0;
        'segments: for extent in self.segments.clone() {
            if end.segment != extent.number {
                let offset = FIRST_BATCH_OFFSET;
                end = HintPosition { segment: extent.number, offset, count: extent.count };
            }
            let key = SegmentKey { target: self.target, number: extent.number };
            let file = self.reader(extent.number).await?;
            while let Some(header) = read_header(&file, key, end.offset, extent.end).await? {
                if header.written_us >= before_us {
                    break 'segments;
                }
                dropped += u64::from(header.hints);
                end.offset += header.total_bytes();
                end.count = header.count_after();
            }
        }
        self.acknowledge(end).await?;
        Ok(dropped)
    }

    /// Drops everything; returns how many hints that were.
    ///
    /// Errors: as of [`HintLog::acknowledge`].
    pub async fn discard(&mut self) -> Result<u64, HintError> {
        let dropped = self.waiting().hints;
        if let Some(last) = self.segments.back() {
            let end = HintPosition { segment: last.number, offset: last.end, count: self.count };
            self.acknowledge(end).await?;
        }
        Ok(dropped)
    }

    /// Removes the log with all that is in it.
    ///
    /// Errors: the device's; some of it may be left.
    pub async fn remove(self) -> Result<(), HintError> {
        let Self { device, directory, writer, reading, .. } = self;
        drop((writer, reading));
        Ok(device.remove_tree(&directory).await?)
    }

    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// The file of a segment for reading; [`HintLog::keep_reader`] gives it back.
    pub(super) async fn reader(&mut self, number: u64) -> Result<D::File, DeviceError> {
        match self.reading.take() {
            Some((open, file)) if open == number => Ok(file),
            _ => self.device.open(&self.path(&segment_name(number)), OpenMode::Read).await,
        }
    }

    pub(super) fn keep_reader(&mut self, number: u64, file: D::File) {
        self.reading = Some((number, file));
    }

    /// Takes the first segment out, and moves the position behind it.
    pub(super) fn drop_front_segment(&mut self) {
        let Some(gone) = self.segments.pop_front() else { return };
        self.discarded.push(gone.number);
        if self.reading.as_ref().is_some_and(|(number, _)| *number == gone.number) {
            self.reading = None;
        }
        match self.segments.front() {
            Some(next) if self.position.segment <= gone.number => {
                let (segment, count) = (next.number, next.count);
                self.position = HintPosition { segment, offset: FIRST_BATCH_OFFSET, count };
            }
            Some(_) => {}
            None => {
                // The next batch goes to a new file, so that this one makes room.
                self.writer = None;
                let segment = gone.number + 1;
                let (offset, count) = (FIRST_BATCH_OFFSET, self.count);
                self.position = HintPosition { segment, offset, count };
            }
        }
    }

    async fn persist_position(&mut self) -> Result<(), DeviceError> {
        let path = self.path(POSITION_NAME);
        let generation = self.generation + 1;
        let slot = encode_position(self.target, generation, self.position);
        if self.has_position_file {
            let file = self.device.open(&path, OpenMode::Write).await?;
            let offset = generation % 2 * PAGE_SIZE_BYTES as u64;
            file.write_at(offset, AlignedBuf::from_slice(&slot)).await?;
            file.sync().await?;
        } else {
            // One that is not whole holds no position: it is replaced.
            match self.device.remove(&path).await {
                Ok(()) | Err(DeviceError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            let file = self.device.open(&path, OpenMode::CreateNew).await?;
            let mut both = AlignedBuf::zeroed(2 * PAGE_SIZE_BYTES);
            let offset = (generation % 2) as usize * PAGE_SIZE_BYTES;
            both.as_mut_slice()[offset..offset + HEADER_BYTES].copy_from_slice(&slot);
            file.write_at(0, both).await?;
            file.sync().await?;
            self.device.sync_dir(&self.directory).await?;
            self.has_position_file = true;
        }
        self.generation = generation;
        Ok(())
    }

    /// Removes files that nothing needs. Whatever stays behind is removed at the next start.
    pub(super) async fn remove_discarded(&mut self) -> Result<(), DeviceError> {
        while let Some(number) = self.discarded.last().copied() {
            match self.device.remove(&self.path(&segment_name(number))).await {
                Ok(()) | Err(DeviceError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            self.discarded.pop();
        }
        Ok(())
    }
}
