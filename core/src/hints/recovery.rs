//! Opening a hint log: what is there, and up to where the node has it.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{Device, DeviceError, DeviceFile, NodeId, OpenMode};

use super::format::{
    FIRST_BATCH_OFFSET, FORMAT_VERSION, Head, SegmentKey, decode_position, decode_segment_header,
};
use super::segment::{
    Extent, Found, POSITION_NAME, read_batch, read_header, segment_name, segment_number,
};
use super::{HintError, HintLog, HintLogConfig, HintPosition};

impl<D: Device> HintLog<D> {
    /// Opens the log of a node in a folder of its own, which is made if it is missing.
    ///
    /// Files that hold nothing valid are removed and counted as damaged; so are segments that are
    /// acknowledged as a whole. Names of no known form are left alone. Errors: the device's, and
    /// [`HintError::Version`]. Cost: one page a segment, and the last segment as a whole.
    pub async fn open(
        device: D,
        directory: &str,
        target: NodeId,
        config: HintLogConfig,
    ) -> Result<Self, HintError> {
        device.create_dir(directory).await?;
        sync_parents(&device, directory).await?;
        let mut log = Self::empty(device, directory.to_owned(), target, config);
        log.read_position().await?;
        log.find_segments().await?;
        log.measure_last().await?;
        let first = log.segments.front().map(|extent| (extent.number, extent.count));
        let is_inside = first.is_some_and(|(number, _)| number == log.position.segment)
            && log.position.offset >= FIRST_BATCH_OFFSET;
        if let Some((segment, count)) = first.filter(|_| !is_inside) {
            log.position = HintPosition { segment, offset: FIRST_BATCH_OFFSET, count };
        }
        log.count = log.count.max(log.position.count);
        log.find_front().await?;
        Ok(log)
    }

    async fn read_position(&mut self) -> Result<(), HintError> {
        let file = match self.device.open(&self.path(POSITION_NAME), OpenMode::Read).await {
            Ok(file) => file,
            Err(DeviceError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let pages = file.length().await? / PAGE_SIZE_BYTES as u64;
        for slot in 0..pages.min(2) {
            let target = self.target;
            let decode = |page: &[u8]| decode_position(page, target);
            let page = file.read_with(slot * PAGE_SIZE_BYTES as u64, PAGE_SIZE_BYTES, decode);
            if let Some((generation, position)) = page.await?
                && generation > self.generation
            {
                (self.generation, self.position) = (generation, position);
            }
        }
        self.has_position_file = pages >= 2;
        Ok(())
    }

    /// Lists the segments that may hold what is not acknowledged, and removes the others.
    async fn find_segments(&mut self) -> Result<(), HintError> {
        let names = self.device.list(&self.directory).await?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        self.number_next = self.position.segment.max(1);
        for number in numbers {
            self.number_next = self.number_next.max(number + 1);
            let (length, head) = self.read_head(number).await?;
            match head {
                Some(Head::Version(found)) => {
                    let file = self.path(&segment_name(number));
                    return Err(HintError::Version { file, expected: FORMAT_VERSION, found });
                }
                Some(Head::Segment { count }) if number >= self.position.segment => {
                    self.segments.push_back(Extent { number, count, end: length });
                    self.count = self.count.max(count);
                }
                Some(Head::Segment { .. }) => self.discarded.push(number),
                None => {
                    // One whose first batch was never durable has no bytes, or not this page.
                    self.damaged_bytes += length.saturating_sub(FIRST_BATCH_OFFSET);
                    self.discarded.push(number);
                }
            }
        }
        self.remove_discarded().await?;
        Ok(())
    }

    async fn read_head(&self, number: u64) -> Result<(u64, Option<Head>), DeviceError> {
        let file = self.device.open(&self.path(&segment_name(number)), OpenMode::Read).await?;
        let length = file.length().await?;
        let length = length - length % PAGE_SIZE_BYTES as u64;
        if length < PAGE_SIZE_BYTES as u64 {
            return Ok((0, None));
        }
        let key = SegmentKey { target: self.target, number };
        let decode = |page: &[u8]| decode_segment_header(page, key);
        Ok((length, file.read_with(0, PAGE_SIZE_BYTES, decode).await?))
    }

    /// Cuts the last segment behind its last whole batch: what is there was never acknowledged to
    /// whoever appended it.
    async fn measure_last(&mut self) -> Result<(), HintError> {
        let Some(extent) = self.segments.back().copied() else { return Ok(()) };
        let file =
            self.device.open(&self.path(&segment_name(extent.number)), OpenMode::Read).await?;
        let key = SegmentKey { target: self.target, number: extent.number };
        let (mut offset, mut end, mut count) =
            (FIRST_BATCH_OFFSET, FIRST_BATCH_OFFSET, extent.count);
        loop {
            match read_batch(&file, key, offset, extent.end).await? {
                Found::Batch(header, _) => {
                    offset += header.total_bytes();
                    (end, count) = (offset, header.count_after());
                }
                // Damage when another batch follows; the rest of one that was cut off when not.
                Found::Damaged(header) => offset += header.total_bytes(),
                Found::Nothing => break,
            }
        }
        self.count = self.count.max(count);
        if let Some(last) = self.segments.back_mut() {
            last.end = end;
        }
        Ok(())
    }

    /// Moves the position over what holds no batch, to the oldest one that waits. While that one
    /// cannot be read, the time of the one before it stands.
    pub(super) async fn find_front(&mut self) -> Result<(), HintError> {
        while let Some(extent) = self.segments.front().copied() {
            let key = SegmentKey { target: self.target, number: extent.number };
            let file = self.reader(extent.number).await?;
            let header = read_header(&file, key, self.position.offset, extent.end).await?;
            self.keep_reader(extent.number, file);
            if let Some(header) = header {
                self.front_us = Some(header.written_us);
                return Ok(());
            }
            self.damaged_bytes += extent.end.saturating_sub(self.position.offset);
            self.drop_front_segment();
        }
        self.front_us = None;
        Ok(())
    }
}

/// Makes the folder's own name durable, and those of the folders above it.
async fn sync_parents<D: Device>(device: &D, directory: &str) -> Result<(), DeviceError> {
    let mut path = directory;
    while let Some((parent, _)) = path.rsplit_once('/') {
        device.sync_dir(parent).await?;
        path = parent;
    }
    device.sync_dir("").await
}
